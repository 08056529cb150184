package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// Ensure that -f prints what there is, then each line as it comes, once each and
// in one line, also where the stream is cut; and that an interrupt is the way to
// end it.
func TestFollow(t *testing.T) {
	line := func(id int) string {
		return fmt.Sprintf(`{"id":%d,"timestamp":"2026-03-01T12:00:00Z","service_id":"a","instance":1,"level":"info","line":"l%d"}`, id, id)
	}
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "application/json" {
			fmt.Fprintf(w, "{\"logs\": [%s,\n %s], \"next_since_id\": 2}", line(1), line(2))
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		switch r.URL.RawQuery {
		case "service_id=a&since_id=2":
			for _, id := range []int{2, 3} {
				fmt.Fprintf(w, "id: %d\nevent: log\ndata: %s\n\n", id, line(id))
			}
		case "service_id=a&since_id=3":
			fmt.Fprint(w, "event: gap\ndata: {\"first_id\":9}\n\n")
			fmt.Fprintf(w, "id: 9\nevent: log\ndata: %s\n\n", strings.ReplaceAll(line(9), ",", ",\ndata:  "))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			t.Errorf("asked for %q", r.URL.RawQuery)
		}
	})
	for format, want := range map[string]string{
		"table": "2026-03-01T12:00:00.000Z a#1 info l1\n2026-03-01T12:00:00.000Z a#1 info l2\n2026-03-01T12:00:00.000Z a#1 info l3\n2026-03-01T12:00:00.000Z a#1 info l9\n",
		"json":  line(1) + "\n" + line(2) + "\n" + line(3) + "\n" + line(9) + "\n",
	} {
		ctx, interrupt := context.WithTimeout(t.Context(), 10*time.Second)
		out, errs := &output{want: want, got: interrupt}, &bytes.Buffer{}
		status := run(ctx, []string{"logs", "a", "-f", "-n", "2", "--addr", addr, "-o", format}, nil, out, errs)
		interrupt()
		if status != 0 || out.b.String() != want {
			t.Errorf("%s: status %d, stdout\n%s\nwant\n%s\nstderr %s", format, status, &out.b, want, errs)
		}
		want := "solo: the stream was cut: EOF; again in 100ms\nsolo: records before 9 are gone: retention has cut them away\n"
		if errs.String() != want {
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

// Ensure that an interrupt ends a program that waits for its own stdin.
func TestInterruptedStdin(t *testing.T) {
	addr := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.URL) })
	for _, args := range [][]string{{"deploy", "-", "--id", "a"}, {"check", "-", "--id", "a"}, {"invoke", "a", "m", "-"}} {
		ctx, interrupt := context.WithCancel(t.Context())
		in, w := io.Pipe()
		go func() {
			w.Write([]byte("x")) // returns once the program has begun to read
			interrupt()
		}()
		var out, errs bytes.Buffer
		status := run(ctx, append(args, "--addr", addr), in, &out, &errs)
		w.Close()
		if status != 1 || out.Len() > 0 || errs.String() != "solo: interrupted\n" {
			t.Errorf("%v: status %d, stdout %q, stderr %q", args, status, &out, &errs)
		}
	}
}

// terminalPair opens a pseudoterminal that passes bytes through: what is written
// to tty is read from screen.
func terminalPair(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudoterminal here: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skipf("no pseudoterminal here: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

// Ensure that a reply ends its line on a terminal, and that nothing else is added.
func TestInvokeOnTerminal(t *testing.T) {
	const end = "<end>"
	for reply, want := range map[string]string{"": "", "x": "x\n", "x\n": "x\n", "x\n\n": "x\n\n"} {
		addr := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, reply) })
		screen, tty := terminalPair(t)
		var errs bytes.Buffer
		status := run(t.Context(), []string{"invoke", "a", "m", "--addr", addr}, nil, tty, &errs)
		if _, err := tty.WriteString(end); err != nil {
			t.Fatal(err)
		}
		got, err := bufio.NewReader(screen).ReadString('>')
		if err != nil {
			t.Fatal(err)
		}
		if status != 0 || got != want+end || errs.Len() > 0 {
			t.Errorf("reply %q: status %d, screen %q, stderr %q", reply, status, got, &errs)
		}
	}
}

func TestVersion(t *testing.T) {
	version = "v1.2.3-test"
	defer func() { version = "" }()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"version", "-o", "json"}, nil, &out, &errs); status != 0 || !strings.Contains(out.String(), `"version":"v1.2.3-test"`) {
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
