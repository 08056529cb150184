package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serve runs a server and returns a client of it.
func serve(t testing.TB, s *Server) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), SocketName)
	l, err := ListenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	c := NewClient(func(ctx context.Context) (*Conn, error) { return DialUnix(ctx, path) })
	t.Cleanup(func() {
		c.Close()
		l.Close()
		s.Close()
		<-done
	})
	return c, path
}

// mirror answers with all that it was given.
func mirror(_ context.Context, h *Head, body []byte) *Reply {
	if h.Method == "fail" {
		return &Reply{Code: "conflict", Message: "not now"}
	}
	return &Reply{ContentType: h.ContentType, Metadata: h.Metadata, Body: body}
}

func TestMessagesOfEverySize(t *testing.T) {
	c, _ := serve(t, &Server{Handler: mirror})
	for _, n := range []int{0, 1, 1023, small - 1, small, small + 1, MaxChunk - 1, MaxChunk, MaxChunk + 1, 3*MaxChunk + 7, MaxBody} {
		body := bytes.Repeat([]byte{0xa5, 'x', 0}, n/3+1)[:n]
		head := &Head{Kind: KindCall, Method: "m", ContentType: "text/plain", Metadata: map[string]string{"a": "b", "": "empty", "ü": strings.Repeat("x", 1000)}}
		r, err := c.Call(t.Context(), head, body, MaxBody)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(r.Body, body) || r.ContentType != "text/plain" || fmt.Sprint(r.Metadata) != fmt.Sprint(head.Metadata) || r.Code != "" {
			t.Fatalf("%d bytes came back as %d, %q, %d pairs, %q", n, len(r.Body), r.ContentType, len(r.Metadata), r.Code)
		}
	}
	r, err := c.Call(t.Context(), &Head{Kind: KindCall, Method: "fail"}, nil, MaxBody)
	if err != nil || r.Code != "conflict" || r.Message != "not now" {
		t.Errorf("a refusal: %+v, %v", r, err)
	}
}

func TestManyCallers(t *testing.T) {
	c, _ := serve(t, &Server{Handler: mirror})
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			for n := range 50 {
				body := []byte(fmt.Sprintf("%d-%d %s", i, n, strings.Repeat("x", n*1000)))
				r, err := c.Call(t.Context(), &Head{Kind: KindCall}, body, MaxBody)
				if err != nil || !bytes.Equal(r.Body, body) {
					t.Errorf("caller %d, call %d: %v", i, n, err)
					return
				}
			}
		})
	}
	group.Wait()
	if n := len(c.idle); n > maxIdle {
		t.Errorf("%d connections are kept", n)
	}
}

func TestTooLargeIsTold(t *testing.T) {
	c, _ := serve(t, &Server{MaxBody: 1000, Handler: func(_ context.Context, h *Head, body []byte) *Reply {
		if h.Method == "large" {
			return &Reply{Body: make([]byte, 2000)}
		}
		return &Reply{}
	}})
	r, err := c.Call(t.Context(), &Head{Kind: KindCall}, make([]byte, 1001), MaxBody)
	if err != nil || r.Code != "too_large" {
		t.Errorf("a body over the server's bound: %+v, %v", r, err)
	}
	if _, err := c.Call(t.Context(), &Head{Kind: KindCall, Method: "large"}, nil, 1999); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a reply over the caller's bound: %v", err)
	}
	if _, err := c.Call(t.Context(), &Head{Kind: KindCall, Metadata: map[string]string{"x": strings.Repeat("x", MaxHead)}}, nil, 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("metadata over the bound: %v", err)
	}
	if _, err := c.Call(t.Context(), &Head{Kind: KindCall}, nil, 0); err != nil {
		t.Errorf("a call after those: %v", err)
	}
}

func TestCancelReachesTheHandler(t *testing.T) {
	entered, left := make(chan struct{}), make(chan error, 1)
	c, _ := serve(t, &Server{Handler: func(ctx context.Context, h *Head, _ []byte) *Reply {
		if h.Method != "wait" {
			return &Reply{}
		}
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return &Reply{}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := c.Call(ctx, &Head{Kind: KindCall, Method: "wait"}, nil, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled call: %v", err)
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context: %v", err)
	}
	if _, err := c.Call(t.Context(), &Head{Kind: KindCall}, nil, 0); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestDeadlineHoldsOnBothSides(t *testing.T) {
	left := make(chan error, 1)
	c, _ := serve(t, &Server{Handler: func(ctx context.Context, h *Head, _ []byte) *Reply {
		<-ctx.Done()
		left <- ctx.Err()
		return &Reply{}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, &Head{Kind: KindCall, TimeoutMS: 10}, nil, 0); err != nil {
		t.Errorf("a handler that keeps the call's own deadline: %v", err)
	}
	if err := <-left; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the handler's context: %v", err)
	}
	if _, err := c.Call(ctx, &Head{Kind: KindCall}, nil, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call past its deadline: %v", err)
	}
	<-left
}

// A handler that outlives the moment at which its connection is watched answers
// all the same, and the connection stays usable.
func TestSlowCallsKeepTheirConnection(t *testing.T) {
	var conns atomic.Int32
	s := &Server{Handler: func(ctx context.Context, _ *Head, body []byte) *Reply {
		timer := time.NewTimer(3 * watchAfter)
		defer timer.Stop()
		select {
		case <-timer.C:
			return &Reply{Body: body}
		case <-ctx.Done():
			return &Reply{Code: "unavailable"}
		}
	}}
	_, path := serve(t, s)
	c := NewClient(func(ctx context.Context) (*Conn, error) {
		conns.Add(1)
		return DialUnix(ctx, path)
	})
	defer c.Close()
	for i := range 5 {
		r, err := c.Call(t.Context(), &Head{Kind: KindCall}, []byte{byte(i)}, 10)
		if err != nil || r.Code != "" || len(r.Body) != 1 || r.Body[0] != byte(i) {
			t.Fatalf("call %d: %+v, %v", i, r, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("five calls, one after the other, took %d connections", n)
	}
}

func TestADeadPeerIsAnErrorAtOnce(t *testing.T) {
	entered := make(chan struct{})
	s := &Server{Handler: func(ctx context.Context, _ *Head, _ []byte) *Reply {
		close(entered)
		<-ctx.Done()
		return &Reply{}
	}}
	c, path := serve(t, s)
	go func() {
		<-entered
		s.mu.Lock()
		defer s.mu.Unlock()
		for conn := range s.conns {
			conn.Close()
		}
	}()
	_, err := c.Call(t.Context(), &Head{Kind: KindCall}, nil, 0)
	if err == nil || errors.Is(err, ErrNotSent) || errors.Is(err, context.Canceled) {
		t.Errorf("a call whose peer died: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fresh := NewClient(func(ctx context.Context) (*Conn, error) { return DialUnix(ctx, path) })
	if _, err := fresh.Call(t.Context(), &Head{Kind: KindCall}, nil, 0); !errors.Is(err, ErrNotSent) {
		t.Errorf("a call to nobody: %v", err)
	}
}

func TestWhoMayConnect(t *testing.T) {
	var seen atomic.Pointer[Cred]
	c, path := serve(t, &Server{Handler: mirror, Allow: func(cred Cred) bool {
		seen.Store(&cred)
		return false
	}})
	if _, err := c.Call(t.Context(), &Head{Kind: KindCall}, nil, 0); err == nil {
		t.Error("a peer that is not allowed was answered")
	}
	if got := seen.Load(); got == nil || got.PID != os.Getpid() || got.UID != os.Geteuid() {
		t.Errorf("the peer is %+v", got)
	}
	conn, err := DialUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if cred, err := PeerCred(conn); err != nil || cred.PID != os.Getpid() {
		t.Errorf("who listens is %+v, %v", cred, err)
	}
}

// pair is a connected pair of sockets.
func pair(t testing.TB) (*Conn, *Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newConn(fds[0]), newConn(fds[1])
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// trickle carries bytes one at a time.
func trickle(from, to *Conn) {
	defer to.Close()
	one := make([]byte, 1)
	for {
		if _, err := from.file.Read(one); err != nil {
			return
		}
		if _, err := to.file.Write(one); err != nil {
			return
		}
	}
}

func TestOneByteAtATime(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	go trickle(a, b)
	go trickle(b, a)
	s := &Server{Handler: mirror}
	go s.serve(server)
	c := NewClient(func(context.Context) (*Conn, error) { return client, nil })
	for _, n := range []int{0, 1, 5000} {
		body := bytes.Repeat([]byte("y"), n)
		r, err := c.Call(t.Context(), &Head{Kind: KindCall, Method: "m", Metadata: map[string]string{"k": "v"}}, body, MaxBody)
		if err != nil || !bytes.Equal(r.Body, body) || r.Metadata["k"] != "v" {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// feed gives a server some bytes, then the end, and returns what it answers.
func feed(t testing.TB, s *Server, text []byte) []byte {
	t.Helper()
	ours, theirs := pair(t)
	done := make(chan struct{})
	go func() { defer close(done); s.serve(theirs); theirs.Close() }()
	answer := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(ours.file)
		answer <- b
	}()
	ours.file.Write(text)
	raw, _ := ours.file.SyscallConn()
	raw.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	b := <-answer
	<-done
	return b
}

func FuzzServer(f *testing.F) {
	call, _ := appendHead([]byte(Magic), &Head{Kind: KindCall, Method: "m", Metadata: map[string]string{"a": "b"}})
	f.Add(appendEnd(append(call, 'B', 0, 0, 0, 1, 'x')))
	f.Add([]byte(Magic + "H\xff\xff\xff\xff"))
	f.Add([]byte(Magic + "B\x00\x00\x00\x00E\x00\x00\x00\x00"))
	f.Add([]byte(preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		feed(t, &Server{Handler: mirror, MaxBody: 4096, Shutdown: func() {}}, text)
	})
}

func FuzzReply(f *testing.F) {
	head, _ := appendReplyHead(nil, &Reply{ContentType: "x", Metadata: map[string]string{"a": "b"}})
	f.Add(appendReplyEnd(append(head, 'B', 0, 0, 0, 1, 'x'), "c", "m"))
	f.Add([]byte("H\x00\x00\x00\x04\x00\x00\x00\x01E\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ours, theirs := pair(t)
		go func() { theirs.file.Write(text); theirs.Close() }()
		r, err := ours.readReply(4096)
		if (r == nil) == (err == nil) {
			t.Fatalf("readReply = %+v, %v", r, err)
		}
		if r != nil && len(r.Body) > 4096 {
			t.Fatalf("a body of %d bytes", len(r.Body))
		}
	})
}

func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

// The control face holds against what go-plugin's own host does not send.
func TestControlFrames(t *testing.T) {
	path := func(p string) string { return "\x04" + string([]byte{byte(len(p))}) + p }
	ok := blockHead
	for _, tc := range []struct {
		name, in, want, not string
	}{
		{"health", frame(h2Headers, h2EndHeaders, 1, path(pathHealth)) + frame(h2Data, h2EndStream, 1, "\x00\x00\x00\x00\x00"), "\x00\x00\x00\x00\x02\x08\x01", ""},
		{"health waits for its body", frame(h2Headers, h2EndHeaders, 1, path(pathHealth)), "", ok},
		{"a body given up", frame(h2Headers, h2EndHeaders, 1, path(pathHealth)) + frame(h2RSTStream, 0, 1, "\x00\x00\x00\x08") + frame(h2Data, h2EndStream, 1, ""), "", ok},
		{"streams are refused at once", frame(h2Headers, h2EndHeaders, 3, path("/plugin.GRPCBroker/StartStream")), "grpc-status\x0212", ""},
		{"continued and padded", frame(h2Headers, h2Padded|h2Priority|h2EndStream, 1, "\x03"+"\x00\x00\x00\x00\x00"+path(pathHealth)[:5]+"pad") + frame(h2Continuation, h2EndHeaders, 1, path(pathHealth)[5:]), "\x08\x01", ""},
		{"ping", frame(h2Ping, 0, 0, "12345678"), frame(h2Ping, h2Ack, 0, "12345678"), ""},
		{"settings", frame(h2Settings, 0, 0, ""), frame(h2Settings, h2Ack, 0, ""), ""},
		{"padding longer than the frame", frame(h2Headers, h2Padded|h2EndHeaders|h2EndStream, 1, "\xff"+path(pathHealth)), "", ok},
		{"a broken header block", frame(h2Headers, h2EndHeaders|h2EndStream, 1, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "", ok},
		{"a continuation of nothing", frame(h2Continuation, h2EndHeaders, 1, "") + frame(h2Ping, 0, 0, "12345678"), "", "12345678"},
		{"a frame over the bound", "\xff\xff\xff\x00\x00\x00\x00\x00\x01", "", ok},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := string(feed(t, &Server{Handler: mirror, Shutdown: func() {}}, []byte(preface+tc.in)))
			if !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
				t.Errorf("the answer is %q, want %q in it and not %q", got, tc.want, tc.not)
			}
		})
	}
	shut := false
	feed(t, &Server{Handler: mirror, Shutdown: func() { shut = true }}, []byte(preface+frame(h2Headers, h2EndHeaders|h2EndStream, 1, path(pathShutdown))))
	if !shut {
		t.Error("Shutdown was not passed on")
	}
	if got := feed(t, &Server{Handler: mirror}, []byte(preface)); len(got) != 0 {
		t.Errorf("a server without a control face answers %q", got)
	}
}

// What a call allocates is a guard that no noise moves: both sides of one with
// two metadata and a body.
func TestACallAllocatesLittle(t *testing.T) {
	c, _ := serve(t, &Server{Handler: mirror})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	head := &Head{Kind: KindCall, Method: "m", TimeoutMS: 30000, Metadata: map[string]string{"caller": "t", "request_id": "r"}}
	body := make([]byte, 1024)
	got := testing.AllocsPerRun(200, func() {
		if _, err := c.Call(ctx, head, body, MaxBody); err != nil {
			t.Fatal(err)
		}
	})
	if got > 22 {
		t.Errorf("a call allocates %.0f times, at most 22 are allowed", got)
	}
}

func BenchmarkCall(b *testing.B) {
	body := make([]byte, 1024)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("wire/%d", callers), func(b *testing.B) {
			c, _ := serve(b, &Server{Handler: mirror})
			head := &Head{Kind: KindCall, Method: "m", TimeoutMS: 30000, Metadata: map[string]string{"caller": "t", "request_id": "r"}}
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			run(b, callers, func() {
				if _, err := c.Call(ctx, head, body, MaxBody); err != nil {
					b.Fatal(err)
				}
			})
		})
		// The yardstick: the same bytes to and fro over as many bare sockets.
		b.Run(fmt.Sprintf("pingpong/%d", callers), func(b *testing.B) {
			socks := make(chan *Conn, callers)
			for range callers {
				a, z := pair(b)
				socks <- a
				go func() {
					buf := make([]byte, len(body))
					for {
						if _, err := io.ReadFull(z.file, buf); err != nil {
							return
						}
						z.file.Write(buf)
					}
				}()
			}
			run(b, callers, func() {
				a := <-socks
				a.file.Write(body)
				buf := make([]byte, len(body))
				if _, err := io.ReadFull(a.file, buf); err != nil {
					b.Fatal(err)
				}
				socks <- a
			})
		})
	}
}

func run(b *testing.B, workers int, f func()) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	b.ResetTimer()
	for range workers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				f()
			}
		})
	}
	group.Wait()
}
