"""A client of solo mcp that is not Go and has no SDK: lines of JSON-RPC over pipes.

usage: agent.py SOLO
"""
import json
import subprocess
import sys

server = subprocess.Popen([sys.argv[1], "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
last = 0


def send(line):
    server.stdin.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    server.stdin.flush()


def receive():
    line = server.stdout.readline()
    assert line, "the server ended"
    message = json.loads(line)
    assert message["jsonrpc"] == "2.0", message
    return message


def request(method, params=None):
    global last
    last += 1
    send({"jsonrpc": "2.0", "id": last, "method": method, "params": params or {}})
    while True:
        message = receive()
        if message.get("id") == last:
            return message


def tool(name, **arguments):
    answer = request("tools/call", {"name": name, "arguments": arguments})
    assert "result" in answer, answer
    result = answer["result"]
    return result.get("isError", False), json.loads(result["content"][0]["text"])


def good(name, **arguments):
    failed, out = tool(name, **arguments)
    assert not failed, (name, out)
    return out


SOURCE = """package main

import (
	"context"

	"github.com/solo-run/solo/sdk"
)

func double(_ context.Context, n int) (int, error) {
	return %s, nil
}

func main() { sdk.Serve(sdk.Methods{"double": sdk.JSON(double)}) }
"""

hello = request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent.py", "version": "1"}})
assert hello["result"]["serverInfo"]["name"] == "solo", hello
send({"jsonrpc": "2.0", "method": "notifications/initialized"})

names = {t["name"] for t in request("tools/list")["result"]["tools"]}
assert {"check", "deploy", "status", "wait", "invoke", "logs", "explain"} <= names, names

# Lines that are no messages: each has its answer, and the next request works.
long = json.dumps({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": {"name": "check", "arguments": {"service_id": "x", "code": "/" * 5_000_000}}})
for bad, ident in ((b"\n", None), (b'{"jsonrpc": "2.0", "id": 99, "met\n', None), (b"[]\n", None), (b'"\xff"\n', None), (long.encode() + b"\n", "long"), (b"x" * 5_000_000 + b"\n", None)):
    send(bad)
    answer = receive()
    assert answer["id"] == ident and answer["error"]["code"] in (-32600, -32700), (bad[:50], answer)
    assert request("ping") == {"jsonrpc": "2.0", "id": last, "result": {}}

failed, out = tool("deploy", service_id="double", code=SOURCE % "m * 2")
assert failed and out["error"] == "compile_failed" and out["diagnostics"] == ["main.go:10:9: undefined: m"], out
assert good("check", service_id="double", code=SOURCE % "n * 2")["ok"] is True
assert good("deploy", service_id="double", code=SOURCE % "n * 2")["state"] == "running"
assert good("invoke", service_id="double", method="double", body="21")["reply"] == 42
failed, out = tool("invoke", service_id="double", method="double", body="{}")
assert failed and out["error"] == "invalid_request", out
assert good("explain", service_id="double")["state"] == "running"
assert good("events", service_id="double")["events"][0]["event_type"] == "service_deployment_failed"
failed, out = tool("status", service_id="double", colour="red")
assert failed and out["fields"] == [{"field": "colour", "message": "is not a known argument"}], out
guide = request("resources/read", {"uri": "solo://guide"})["result"]["contents"][0]
assert "sdk.Serve" in guide["text"], guide
page = json.loads(request("resources/read", {"uri": "solo://services/double/events"})["result"]["contents"][0]["text"])
assert page["events"][-1]["event_type"] == "service_started", page
assert "error" in request("resources/read", {"uri": "solo://nowhere"})
assert "error" in request("no/such/method")
assert good("kill", service_id="double")["status"] == "killed"

server.stdin.close()
assert server.stdout.read() == b""
assert server.wait(30) == 0
