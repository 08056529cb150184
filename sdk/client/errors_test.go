package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

// Ensure that each code comes back as the daemon sent it, with all beside it.
func TestErrorMapping(t *testing.T) {
	for _, code := range client.Codes() {
		t.Run(string(code), func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Request-Id", "r1")
				w.Header().Set("Retry-After", "7")
				answer(418, fmt.Sprintf(`{"error":%q,"message":"m %%d","timestamp":"2026-03-01T12:00:00Z","details":{"limit":5,"list":["x"]}}`, code))(w, r)
			})
			_, err := c.Status(t.Context(), "x")
			var e *client.Error
			if !errors.As(fmt.Errorf("wrapped: %w", err), &e) {
				t.Fatalf("error %v of type %T", err, err)
			}
			if e.Code != code || e.Message != "m %d" || e.Error() != "m %d" || e.Status != 418 || e.RequestID != "r1" || e.RetryAfter != 7*time.Second {
				t.Errorf("got %+v", e)
			}
			if e.Details["limit"] != 5.0 || e.Details["list"].([]any)[0] != "x" {
				t.Errorf("details %v", e.Details)
			}
			if errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrProtocol) {
				t.Error("a refusal is taken for a failure of the transport")
			}
		})
	}
}

func TestErrorDetails(t *testing.T) {
	c := serve(t, answer(422, `{"error":"compile_failed","message":"2","timestamp":"x","details":{
		"diagnostics":[{"file":"main.go","line":3,"column":5,"message":"undefined: x"},{"file":null,"line":null,"column":null,"message":"m"}],
		"findings":[{"file":"a.go","line":1,"column":null,"message":"no","rule":"imports","advice":"use y"}],
		"exit":{"reason":"signal","code":null,"signal":"SIGKILL","oom":false,"at":"2026-03-01T12:00:00Z","ran_ms":12,"log_tail":["a"],"details":null}}}`))
	_, err := c.Deploy(t.Context(), &solov1.DeployRequest{})
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	d := e.Diagnostics()
	if len(d) != 3 || d[0].GetFile() != "main.go" || d[0].GetColumn() != 5 || d[1].File != nil || d[2].GetRule() != "imports" {
		t.Errorf("diagnostics %v", d)
	}
	if x := e.Exit(); x.GetSignal() != "SIGKILL" || x.Code != nil || x.GetRanMs() != 12 {
		t.Errorf("exit %v", x)
	}
	if x := (&client.Error{}).Exit(); x != nil {
		t.Errorf("an error without an exit has %v", x)
	}
}

// Ensure that details are an object whatever came, and that a Retry-After that
// makes no sense is none.
func TestErrorOddities(t *testing.T) {
	for _, details := range []string{`{}`, `null`, `[1]`, `"x"`} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "-3")
			answer(503, `{"error":"overloaded","message":"m","details":`+details+`}`)(w, r)
		})
		_, err := c.Status(t.Context(), "x")
		var e *client.Error
		if !errors.As(err, &e) || e.Details == nil || len(e.Details) != 0 || e.RetryAfter != 0 || e.Exit() != nil || e.Diagnostics() != nil {
			t.Errorf("details %s: %+v", details, err)
		}
	}
}

// Ensure that a daemon that fails still says how it is, and that one that
// refuses to say is a refusal.
func TestHealthFailing(t *testing.T) {
	c := serve(t, answer(503, `{"status":"failing","components":{"store":{"status":"failing","detail":"disk full"}}}`))
	h, err := c.Health(t.Context())
	if err != nil || h.GetStatus() != "failing" || h.GetComponents()["store"].GetDetail() != "disk full" {
		t.Errorf("got %v, %v", h, err)
	}
	c = serve(t, answer(503, `{"error":"shutting_down","message":"m","details":{}}`))
	var e *client.Error
	if _, err := c.Health(t.Context()); !errors.As(err, &e) || e.Code != client.CodeShuttingDown {
		t.Errorf("error %v", err)
	}
}

// Ensure that answers that are not Solo's are told apart and bounded.
func TestProtocol(t *testing.T) {
	big := func(n int64, length bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(n))
			}
			io.CopyN(w, zeros{}, n)
		}
	}
	tests := map[string]http.HandlerFunc{
		"html":              answer(200, "<html>"),
		"empty":             answer(200, ""),
		"a list":            answer(200, "[]"),
		"another type":      answer(200, `{"pid":"x"}`),
		"two values":        answer(200, `{} {}`),
		"a proxy's 502":     answer(502, "<html>bad gateway"),
		"an error of none":  answer(500, `{"error":"","message":"m"}`),
		"an error of other": answer(500, `{"error":{"code":5}}`),
		"too long":          big(8<<20+1, false),
		"too long, said so": big(8<<20+1, true),
		"endless":           big(1<<40, false),
		"endless error":     func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); big(1<<40, false)(w, r) },
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, h).Status(t.Context(), "x")
			var e *client.Error
			if !errors.Is(err, client.ErrProtocol) || errors.Is(err, client.ErrUnreachable) || errors.As(err, &e) {
				t.Errorf("error %v, want ErrProtocol", err)
			}
		})
	}
	t.Run("reply", func(t *testing.T) {
		_, err := serve(t, big(8<<20+1, false)).Invoke(t.Context(), &solov1.InvokeRequest{ServiceId: "a", Method: "m"})
		if !errors.Is(err, client.ErrProtocol) {
			t.Errorf("error %v, want ErrProtocol", err)
		}
	})
	t.Run("reply at the bound", func(t *testing.T) {
		r, err := serve(t, big(8<<20, false)).Invoke(t.Context(), &solov1.InvokeRequest{ServiceId: "a", Method: "m"})
		if err != nil || len(r.GetBody()) != 8<<20 {
			t.Errorf("%d bytes, %v", len(r.GetBody()), err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// Ensure that a redirect takes no token elsewhere.
func TestNoRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("followed: %v", r.Header) }))
	defer other.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}, client.WithToken("t"))
	if _, err := c.Status(t.Context(), "x"); !errors.Is(err, client.ErrProtocol) {
		t.Errorf("error %v, want ErrProtocol", err)
	}
}

// script serves raw bytes: each connection gets what its turn writes.
func script(t *testing.T, turns ...func(*http.Request, net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err != nil || i >= len(turns) {
				t.Errorf("connection %d: %v", i, err)
			} else {
				turns[i](r, conn)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "unix:" + path
}

func raw(text string) func(*http.Request, net.Conn) {
	return func(_ *http.Request, c net.Conn) { io.WriteString(c, text) }
}

// Ensure that a daemon that is not there, or goes away, is ErrUnreachable.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for name, addr := range map[string]string{
		"no socket":     "unix:" + filepath.Join(t.TempDir(), "s"),
		"nobody":        "http://" + l.Addr().String(),
		"hangs up":      script(t, raw("")),
		"half a head":   script(t, raw("HTTP/1.1 200 OK\r\nContent-")),
		"half a body":   script(t, raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"status\"")),
		"half a chunk":  script(t, raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"st")),
		"another wire":  script(t, raw("SSH-2.0-x\r\n")),
		"half an error": script(t, raw("HTTP/1.1 500 OK\r\nContent-Length: 100\r\n\r\n{\"error\"")),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mustNew(t, addr).Health(t.Context())
			if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), addr) {
				t.Errorf("error %v, want ErrUnreachable that names %s", err, addr)
			}
		})
	}
}

// Ensure that time that ran out is not a daemon that is away.
func TestDeadline(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	c := serve(t, hang, client.WithTimeout(20*time.Millisecond))
	_, err := c.Status(t.Context(), "x")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrUnreachable) {
		t.Errorf("error %v, want the deadline", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c = serve(t, func(w http.ResponseWriter, r *http.Request) { cancel(); hang(w, r) })
	if _, err := c.Status(ctx, "x"); !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrUnreachable) {
		t.Errorf("error %v, want the cancellation", err)
	}
}
