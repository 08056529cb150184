package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// serve answers on a unix socket whose address it returns.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return "unix:" + path
}

// output is a stream that hands over what was written, once there is enough.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	want string
	got  func()
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.want != "" && strings.HasSuffix(o.b.String(), o.want) {
		o.got()
	}
	return len(p), nil
}

// Ensure that a reply is printed as it is, whatever it holds.
func TestInvokeBytes(t *testing.T) {
	for _, reply := range []string{"", "x", "x\n", "\x00\xff\x1b[2J\r\n\n"} {
		addr := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, reply) })
		var out, errs bytes.Buffer
		if status := run(t.Context(), []string{"invoke", "a", "m", "--addr", addr, "-o", "json"}, nil, &out, &errs); status != 0 || out.String() != reply || errs.Len() > 0 {
			t.Errorf("reply %q: status %d, stdout %q, stderr %q", reply, status, &out, &errs)
		}
	}
}

func TestInvokeBodyBound(t *testing.T) {
	addr := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.URL) })
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"invoke", "a", "m", "-", "--addr", addr}, bytes.NewReader(make([]byte, maxBody+1)), &out, &errs)
	if want := "solo: cannot read the body from stdin: it has more than 8388608 bytes\n"; status != 1 || errs.String() != want {
		t.Errorf("status %d, stderr %q, want %q", status, &errs, want)
	}
}

// Ensure that -f prints what there is, then each line as it comes, once each,
// and that an interrupt is the way to end it.
func TestFollow(t *testing.T) {
	line := func(id int) string {
		return fmt.Sprintf(`{"id":%d,"timestamp":"2026-03-01T12:00:00Z","service_id":"a","instance":1,"level":"info","line":"l%d"}`, id, id)
	}
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "application/json" {
			fmt.Fprintf(w, "{\"logs\": [%s,\n %s], \"next_since_id\": 2}", line(1), line(2))
			return
		}
		if got, want := r.URL.RawQuery, "service_id=a&since_id=2"; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, id := range []int{2, 3} {
			fmt.Fprintf(w, "id: %d\nevent: log\ndata: %s\n\n", id, line(id))
		}
		fmt.Fprint(w, "event: gap\ndata: {\"first_id\":9}\n\n")
		fmt.Fprintf(w, "id: 9\nevent: log\ndata: %s\n\n", line(9))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for format, want := range map[string]string{
		"table": "2026-03-01T12:00:00.000Z a#1 info l1\n2026-03-01T12:00:00.000Z a#1 info l2\n2026-03-01T12:00:00.000Z a#1 info l3\n2026-03-01T12:00:00.000Z a#1 info l9\n",
		"json":  line(1) + "\n" + line(2) + "\n" + line(3) + "\n" + line(9) + "\n",
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		out, errs := &output{want: want, got: interrupt}, &bytes.Buffer{}
		status := run(ctx, []string{"logs", "a", "-f", "-n", "2", "--addr", addr, "-o", format}, nil, out, errs)
		interrupt()
		if status != 0 || out.b.String() != want {
			t.Errorf("%s: status %d, stdout\n%s\nwant\n%s\nstderr %s", format, status, &out.b, want, errs)
		}
		if want := "solo: records before 9 are gone: retention has cut them away\n"; errs.String() != want {
			t.Errorf("%s: stderr %q, want %q", format, errs, want)
		}
	}
}

// Ensure that a deploy that is interrupted says so, and is no success.
func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	addr := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		interrupt()
		<-r.Context().Done()
	})
	var out, errs bytes.Buffer
	status := run(ctx, []string{"restart", "a", "--addr", addr}, nil, &out, &errs)
	if status != 1 || out.Len() > 0 || errs.String() != "solo: interrupted\n" {
		t.Errorf("status %d, stdout %q, stderr %q", status, &out, &errs)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// Ensure that data which did not arrive is a failure.
func TestStdoutFails(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"status":"ok"}`) })
	for _, args := range [][]string{{"health"}, {"list"}, {"invoke", "a", "m"}} {
		var errs bytes.Buffer
		status := run(t.Context(), append(args, "--addr", addr), nil, brokenPipe{}, &errs)
		if status != 1 || errs.String() != "solo: cannot write to stdout: no space left on device\n" {
			t.Errorf("%v: status %d, stderr %q", args, status, &errs)
		}
	}
}

// Ensure that each command has its help, with an example that begins with it.
func TestHelp(t *testing.T) {
	commands := (&app{}).root().Commands()
	if len(commands) < 12 {
		t.Fatalf("only %d commands", len(commands))
	}
	for i := 0; i < len(commands); i++ {
		c := commands[i]
		commands = append(commands, c.Commands()...)
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || !strings.HasPrefix(strings.TrimSpace(c.Example), c.CommandPath()) {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
	}
}
