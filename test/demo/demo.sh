#!/bin/sh
# The whole story of Solo in a minute: a daemon starts, a Go source becomes a
# running service, its process is killed and comes back, the daemon is killed
# and comes back, the log tells all of it, and nothing is left behind.
set -eu

cd "$(dirname "$0")/../.."
solo=$PWD/bin/solo
solod=$PWD/bin/solod
dir=$(mktemp -d)
daemon=
export SOLO_ADDR="unix:$dir/data/solo.sock" SOLO_TENANT=demo
unset SOLO_TOKEN SOLO_CONFIG || :
export SOLO_SOLO__DATA_DIR="$dir/data" SOLO_SOLO__HTTP_PORT=0 SOLO_SOLO__LISTEN_PORT=0

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
field() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" | head -n 1; }
millis() { date +%s%3N; }

start() {
	"$solod" >>"$dir/solod.log" 2>&1 &
	daemon=$!
	until "$solo" health >/dev/null 2>&1; do
		kill -0 "$daemon" 2>/dev/null || { cat "$dir/solod.log"; exit 1; }
		sleep 0.05
	done
}

finish() {
	if [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; then wait "$daemon" || :; fi
	rm -rf "$dir"
}
trap finish EXIT

say "1. The daemon starts, in a directory of its own"
start
echo "solod runs with pid $daemon"

say "2. A Go source"
cat >"$dir/greeter.go" <<'GO'
package main

import (
	"context"

	"github.com/solo-run/solo/sdk"
)

type greeter struct{ sdk.Methods }

type person struct {
	Name string `json:"name"`
}

func hello(_ context.Context, p person) (string, error) {
	if p.Name == "" {
		return "", sdk.Errorf("invalid_request", "who is it?")
	}
	return "hello, " + p.Name, nil
}

func main() {
	sdk.Serve(greeter{sdk.Methods{"hello": sdk.JSON(hello)}})
}
GO
cat "$dir/greeter.go"

say "3. Posted, compiled, started, called"
echo "(the first deploy of a new daemon waits for the compiler's cache to warm)"
show "$solo" deploy "$dir/greeter.go"
show "$solo" invoke greeter hello '{"name": "world"}'
echo

say "4. A mistake is told where it is"
sed 's/"hello, " + p.Name/42/' "$dir/greeter.go" >"$dir/broken.go"
show "$solo" deploy "$dir/broken.go" || echo "(exit status $?)"

say "5. Its process is killed with -9"
pid=$("$solo" status greeter -o json | field pid)
before=$(millis)
show kill -9 "$pid"
show "$solo" invoke greeter hello '{"name": "again"}' || show "$solo" invoke greeter hello '{"name": "again"}'
echo
echo "answered $(($(millis) - before)) ms after the kill, by pid $("$solo" status greeter -o json | field pid)"

say "6. The daemon is killed with -9"
pid=$("$solo" status greeter -o json | field pid)
show kill -9 "$daemon"
wait "$daemon" 2>/dev/null || :
while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
echo "the service ended with it; now the daemon starts again"
start
show "$solo" invoke greeter hello '{"name": "once more"}'
echo

say "7. The log tells all of it, and proves that nothing was changed"
show "$solo" events
show "$solo" events verify

say "8. The daemon ends, and nothing is left"
pid=$("$solo" status greeter -o json | field pid)
show kill "$daemon"
wait "$daemon"
daemon=
if kill -0 "$pid" 2>/dev/null; then
	echo "the service's process $pid is still there" >&2
	exit 1
fi
echo "the service's process is gone, and so is all that solod made outside $dir"
