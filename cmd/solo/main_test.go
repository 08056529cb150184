package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/sdk/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"solo": main})
}

// Each scenario is a script with the daemon's answers: replies/METHOD_path holds
// a status line, headers, an empty line and the body. What was asked for is in
// the file requests.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "solo")
			if err != nil {
				return err
			}
			stop, err := daemon(filepath.Join(dir, "s"), env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(func() { stop(); os.RemoveAll(dir) })
			env.Setenv("SOLO_ADDR", "unix:"+filepath.Join(dir, "s"))
			// The race detector's own wait at the end of each program.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": checkStatus,
		},
		RequireExplicitExec: true,
	})
}

// checkStatus runs solo and holds its exit status against the first argument:
// status 3 deploy x.go.
func checkStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("solo", args[1:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// daemon answers on a unix socket as the files in dir say.
func daemon(path, dir string) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reply(conn, dir)
			conn.Close()
		}
	}()
	return func() { l.Close(); <-done }, nil
}

func reply(conn net.Conn, dir string) {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	body, _ := io.ReadAll(r.Body)
	var asked bytes.Buffer
	fmt.Fprintf(&asked, "%s %s\n", r.Method, r.URL.RequestURI())
	for _, name := range []string{"X-Tenant-ID", "Authorization", "Content-Type", "X-Timeout-Ms", "X-Solo-Meta-A"} {
		if v, ok := r.Header[http.CanonicalHeaderKey(name)]; ok {
			fmt.Fprintf(&asked, "%s: %s\n", name, v[0])
		}
	}
	fmt.Fprintf(&asked, "%s\n", bytes.TrimSuffix(body, []byte("\n")))
	f, err := os.OpenFile(filepath.Join(dir, "requests"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Write(asked.Bytes())
		f.Close()
	}
	script, err := os.ReadFile(filepath.Join(dir, "replies", r.Method+strings.ReplaceAll(r.URL.Path, "/", "_")))
	if err != nil {
		script = []byte("404 x\n\n{\"error\":\"not_found\",\"message\":\"no such service\",\"timestamp\":\"x\",\"details\":{}}\n")
	}
	head, answer, _ := bytes.Cut(script, []byte("\n\n"))
	fmt.Fprintf(conn, "HTTP/1.1 %s\r\nConnection: close\r\n\r\n", bytes.ReplaceAll(head, []byte("\n"), []byte("\r\n")))
	conn.Write(answer)
}

// Ensure that each code has an exit status, that the client knows each code of
// the vocabulary, and that neither knows another.
func TestStatusOfEachCode(t *testing.T) {
	want := map[solo.Code]bool{}
	for _, c := range solo.Codes() {
		want[c] = true
	}
	for _, c := range client.Codes() {
		if !want[solo.Code(c)] {
			t.Errorf("the client has the code %s of its own", c)
		}
		delete(want, solo.Code(c))
		status, ok := codeStatus[c]
		if !ok || status <= statusDone || status >= statusUnreachable {
			t.Errorf("code %s: exit status %d", c, status)
		}
		if got := exitStatus(&client.Error{Code: c}); got != status {
			t.Errorf("code %s ends with %d, want %d", c, got, status)
		}
	}
	for c := range want {
		t.Errorf("the client lacks the code %s", c)
	}
	if len(codeStatus) != len(client.Codes()) {
		t.Errorf("%d codes in the table, want %d", len(codeStatus), len(client.Codes()))
	}
}

func TestStatusOfOtherErrors(t *testing.T) {
	refused := &client.Error{Code: client.CodeNotFound}
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{io.ErrUnexpectedEOF, 1},
		{context.Canceled, 1},
		{verdictError("x"), 1},
		{fmt.Errorf("x: %w", client.ErrProtocol), 1},
		{&client.Error{Code: "of_tomorrow"}, 1},
		{&usageError{cause: io.EOF}, 2},
		{&sourceError{}, 3},
		{&sourceError{cause: refused}, 4},
		{fmt.Errorf("x: %w", refused), 4},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), 6},
		{fmt.Errorf("x: %w", client.ErrUnreachable), 7},
	} {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%v ends with %d, want %d", tt.err, got, tt.want)
		}
	}
}

// Ensure that the hints are of codes that there are.
func TestHints(t *testing.T) {
	for code := range hints {
		if _, ok := codeStatus[code]; !ok {
			t.Errorf("hint for the unknown code %s", code)
		}
	}
}
