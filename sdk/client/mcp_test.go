package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/solo-run/solo/sdk/client"
)

// A session says beside each message what the protocol wants said, and hands back
// what comes, in order.
func TestMCPSession(t *testing.T) {
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m struct{ Method string }
		json.Unmarshal(body, &m)
		h := r.Header
		seen = append(seen, fmt.Sprintf("%s %s %s|%s|%s|%s %s", r.Method, r.URL.Path, h.Get("Mcp-Protocol-Version"), h.Get("Mcp-Session-Id"), h.Get("Mcp-Method"), h.Get("Mcp-Name"), h.Get("Authorization")))
		switch m.Method {
		case "initialize":
			w.Header().Set("Mcp-Session-Id", "S")
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}`)
		case "tools/call":
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(w, ": hello\n\nevent: message\ndata: {\"method\":\"notifications/progress\"}\n\ndata: {\"id\":2,\ndata: \"result\":{}}\n\n")
		case "cut":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: {\"method\":\"x\"}\n\n")
		case "rejected":
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no"}}`)
		case "refused":
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"error":"permission_denied","message":"no","timestamp":"x","details":{}}`)
		case "other":
			io.WriteString(w, `<html>`)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer srv.Close()
	c, err := client.New(srv.URL, client.WithToken("T"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.MCP()
	if err != nil {
		t.Fatal(err)
	}
	send := func(message string) ([]string, error) {
		var got []string
		err := s.Send(t.Context(), json.RawMessage(message), func(m json.RawMessage) error {
			got = append(got, strings.ReplaceAll(string(m), "\n", ""))
			return nil
		})
		return got, err
	}
	for _, tc := range []struct {
		message, seen string
		got           []string
	}{
		{`{"id":1,"method":"initialize","params":{}}`, "||initialize|", []string{`{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}`}},
		{`{"method":"notifications/initialized"}`, "2025-06-18|S|notifications/initialized|", nil},
		{`{"id":2,"method":"tools/call","params":{"name":"list"}}`, "2025-06-18|S|tools/call|list", []string{`{"method":"notifications/progress"}`, `{"id":2,"result":{}}`}},
		{`{"id":2,"method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, "2026-07-28||tools/call|a", []string{`{"method":"notifications/progress"}`, `{"id":2,"result":{}}`}},
		{`{"id":3,"method":"rejected"}`, "2025-06-18|S|rejected|", []string{`{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no"}}`}},
	} {
		got, err := send(tc.message)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tc.got) {
			t.Errorf("%s: %q %v", tc.message, got, err)
		}
		if last := seen[len(seen)-1]; last != "POST /mcp "+tc.seen+" Bearer T" {
			t.Errorf("%s: the daemon saw %q", tc.message, last)
		}
	}
	_, err = send(`{"id":4,"method":"refused"}`)
	if e := new(client.Error); !errors.As(err, &e) || e.Code != client.CodePermissionDenied {
		t.Errorf("refused: %v", err)
	}
	for _, method := range []string{"cut", "other", "none"} {
		if _, err := send(`{"id":4,"method":"` + method + `"}`); !errors.Is(err, client.ErrProtocol) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if _, err := send(`{`); err == nil {
		t.Error("half a message is sent")
	}
	stop := errors.New("enough")
	if err := s.Send(t.Context(), json.RawMessage(`{"id":2,"method":"tools/call"}`), func(json.RawMessage) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the end that the caller wants: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Send(gone, json.RawMessage(`{"id":2,"method":"tools/call"}`), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of ctx: %v", err)
	}
	g, err := client.New("grpc://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.MCP(); err == nil {
		t.Error("gRPC has a session of MCP")
	}
}
