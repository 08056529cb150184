package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

func event(id int) string {
	return fmt.Sprintf("id: %d\nevent: service_started\ndata: {\"id\":%d,\"event_type\":\"service_started\"}\n\n", id, id)
}

// stream answers one connection with a stream, and keeps what was asked for.
func stream(asked *[]string, text string) func(*http.Request, net.Conn) {
	return func(r *http.Request, c net.Conn) {
		*asked = append(*asked, r.URL.RequestURI()+" last="+r.Header.Get("Last-Event-ID")+" "+r.Header.Get("Accept"))
		io.WriteString(c, streamHead+text)
	}
}

// take reads n records of a stream; each error of it is one too.
func take(t *testing.T, c *client.Client, req *solov1.WatchRequest, n int) (ids []uint64, errs []error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for e, err := range c.WatchEvents(ctx, req) {
		if err != nil {
			errs = append(errs, err)
		} else {
			ids = append(ids, e.GetId())
		}
		if len(ids)+len(errs) == n {
			return ids, errs
		}
	}
	return ids, errs
}

// Ensure that a stream that is cut resumes after the last record that came
// whole: none is lost, none comes twice, whatever the daemon sends again.
func TestWatchResumes(t *testing.T) {
	var asked []string
	var cuts []error
	addr := script(t,
		stream(&asked, ": hello\n\n"+event(5)+event(6)+event(7)[:20]),
		stream(&asked, event(6)+event(7)+event(8)[:len(event(8))-1]),
		stream(&asked, strings.ReplaceAll(event(8), "\n", "\r\n")+event(8)+event(9)),
	)
	c := mustNew(t, addr, client.WithReconnect(func(cause error, wait time.Duration) {
		cuts = append(cuts, cause)
		if wait < 80*time.Millisecond || wait > 120*time.Millisecond {
			t.Errorf("wait %v after a stream that brought something", wait)
		}
	}))
	ids, errs := take(t, c, &solov1.WatchRequest{SinceId: proto.Uint64(4), ServiceId: "a"}, 5)
	if want := []uint64{5, 6, 7, 8, 9}; !slices.Equal(ids, want) || errs != nil {
		t.Errorf("got %v, %v, want %v", ids, errs, want)
	}
	want := []string{
		"/events?service_id=a&since_id=4 last= text/event-stream",
		"/events?service_id=a&since_id=6 last=6 text/event-stream",
		"/events?service_id=a&since_id=7 last=7 text/event-stream",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q\nwant  %q", asked, want)
	}
	if len(cuts) != 2 || !errors.Is(cuts[0], io.EOF) {
		t.Errorf("told of %v", cuts)
	}
}

// Ensure that "from now on" is the moment of the call, also where the stream is
// cut before its first record.
func TestWatchFromNow(t *testing.T) {
	var asked []string
	body := `{"events":[{"id":1}],"next_since_id":1,"last_id":41}`
	addr := script(t,
		func(r *http.Request, c net.Conn) {
			asked = append(asked, r.URL.RequestURI()+" "+r.Header.Get("Accept"))
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		},
		stream(&asked, ": nothing yet\n\n"),
		stream(&asked, event(42)),
	)
	var tapped []string
	c := mustNew(t, addr, client.WithTap(func(m json.RawMessage) { tapped = append(tapped, string(m)) }))
	ids, errs := take(t, c, &solov1.WatchRequest{}, 1)
	if !slices.Equal(ids, []uint64{42}) || errs != nil {
		t.Errorf("got %v, %v", ids, errs)
	}
	want := []string{
		"/events?limit=1 application/json",
		"/events?since_id=41 last= text/event-stream",
		"/events?since_id=41 last=41 text/event-stream",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q\nwant  %q", asked, want)
	}
	if want := []string{`{"id":42,"event_type":"service_started"}`}; !slices.Equal(tapped, want) {
		t.Errorf("tapped %q, want %q", tapped, want)
	}
}

func TestWatchLogs(t *testing.T) {
	var asked []string
	body := `{"logs":[{"id":1700000000000000}],"next_since_id":1700000000000000}`
	addr := script(t,
		func(r *http.Request, c net.Conn) {
			asked = append(asked, r.URL.RequestURI())
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		},
		stream(&asked, "id: 1700000000000001\nevent: log\ndata: {\"id\":1700000000000001,\ndata: \"line\":\"hi\",\"instance\":2}\n\n"),
	)
	for l, err := range mustNew(t, addr).WatchLogs(t.Context(), &solov1.LogsRequest{ServiceId: "a", Level: "warn", Limit: 7}) {
		if err != nil || l.GetLine() != "hi" || l.GetInstance() != 2 || l.GetId() != 1700000000000001 {
			t.Errorf("got %v, %v", l, err)
		}
		break
	}
	want := []string{
		"/logs?level=warn&limit=1&service_id=a&tail=true",
		"/logs?level=warn&service_id=a&since_id=1700000000000000 last= text/event-stream",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q\nwant  %q", asked, want)
	}
}

// Ensure that a stream is not asked to end where it cannot.
func TestWatchLogsUntil(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.URL) })
	n := 0
	for _, err := range c.WatchLogs(t.Context(), &solov1.LogsRequest{Until: timestamppb.Now()}) {
		var e *client.Error
		if n++; !errors.As(err, &e) || e.Code != client.CodeInvalidRequest {
			t.Errorf("error %v, want invalid_request", err)
		}
	}
	if n != 1 {
		t.Errorf("%d turns, want one", n)
	}
}

// Ensure that what retention took is said once, and that the stream goes on.
func TestWatchGap(t *testing.T) {
	for _, data := range []string{`{"first_id":100}`, `100`} {
		var asked []string
		addr := script(t, stream(&asked, "event: gap\ndata: "+data+"\n\n"), stream(&asked, event(100)))
		ids, errs := take(t, mustNew(t, addr), &solov1.WatchRequest{SinceId: proto.Uint64(3)}, 2)
		var gap *client.Gap
		if len(errs) != 1 || !errors.As(errs[0], &gap) || gap.FirstID != 100 || !slices.Equal(ids, []uint64{100}) {
			t.Errorf("data %s: got %v, %v", data, ids, errs)
		}
		if len(asked) != 2 || !strings.Contains(asked[1], "since_id=99 last=99") {
			t.Errorf("data %s: asked %q", data, asked)
		}
	}
}

// Ensure that what cannot be mended by another connection ends the stream with
// its error, at once.
func TestWatchEnds(t *testing.T) {
	refuse := func(status int, code string) func(*http.Request, net.Conn) {
		body := fmt.Sprintf(`{"error":%q,"message":"m","details":{}}`, code)
		return raw(fmt.Sprintf("HTTP/1.1 %d x\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body))
	}
	var asked []string
	isCode := func(code client.Code) func(error) bool {
		return func(err error) bool {
			var e *client.Error
			return errors.As(err, &e) && e.Code == code
		}
	}
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	tests := []struct {
		name  string
		turns []func(*http.Request, net.Conn)
		want  func(error) bool
		ids   int
	}{
		{"refused", []func(*http.Request, net.Conn){refuse(403, "permission_denied")}, isCode(client.CodePermissionDenied), 0},
		{"busy at first", []func(*http.Request, net.Conn){refuse(503, "overloaded")}, isCode(client.CodeOverloaded), 0},
		{"expired later", []func(*http.Request, net.Conn){stream(&asked, event(1)), refuse(401, "unauthenticated")}, isCode(client.CodeUnauthenticated), 1},
		{"no daemon", []func(*http.Request, net.Conn){raw("")}, is(client.ErrUnreachable), 0},
		{"a page", []func(*http.Request, net.Conn){raw("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>")}, is(client.ErrProtocol), 0},
		{"a bad id", []func(*http.Request, net.Conn){stream(&asked, event(1)+"id: x\ndata: {}\n\n")}, is(client.ErrProtocol), 1},
		{"a bad record", []func(*http.Request, net.Conn){stream(&asked, event(1)+"id: 2\ndata: {\n\n")}, is(client.ErrProtocol), 1},
		{"a bad gap", []func(*http.Request, net.Conn){stream(&asked, "event: gap\ndata: {}\n\n")}, is(client.ErrProtocol), 0},
		{"a long record", []func(*http.Request, net.Conn){stream(&asked, event(1)+"data: "+strings.Repeat("x", 8<<20))}, is(client.ErrProtocol), 1},
		{"many lines", []func(*http.Request, net.Conn){stream(&asked, event(1)+strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n", 9))}, is(client.ErrProtocol), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ids, errs := take(t, mustNew(t, script(t, tt.turns...)), &solov1.WatchRequest{SinceId: proto.Uint64(0)}, 100)
			if len(errs) != 1 || !tt.want(errs[0]) || len(ids) != tt.ids {
				t.Errorf("got %v and %v", ids, errs)
			}
		})
	}
}

// Ensure that a daemon that is restarted is waited for.
func TestWatchOutlivesRestart(t *testing.T) {
	var asked []string
	body := `{"error":"shutting_down","message":"m","details":{}}`
	addr := script(t,
		stream(&asked, event(1)),
		raw(fmt.Sprintf("HTTP/1.1 503 x\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s", len(body), body)),
		raw(""),
		stream(&asked, event(2)),
	)
	var waits []time.Duration
	c := mustNew(t, addr, client.WithReconnect(func(_ error, wait time.Duration) { waits = append(waits, wait) }))
	ids, errs := take(t, c, &solov1.WatchRequest{SinceId: proto.Uint64(0)}, 2)
	if !slices.Equal(ids, []uint64{1, 2}) || errs != nil {
		t.Errorf("got %v, %v", ids, errs)
	}
	if len(waits) != 3 || waits[1] != time.Second {
		t.Errorf("waits %v, want the second to be what was asked for", waits)
	}
}

// Ensure that who breaks off, or whose context ends, leaves no connection open.
func TestWatchStops(t *testing.T) {
	closed := make(chan struct{}, 2)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, event(1))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		closed <- struct{}{}
	})
	ids, errs := take(t, c, &solov1.WatchRequest{SinceId: proto.Uint64(0)}, 1)
	if len(ids) != 1 || errs != nil {
		t.Fatalf("got %v, %v", ids, errs)
	}
	<-closed
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range c.WatchEvents(ctx, &solov1.WatchRequest{SinceId: proto.Uint64(0)}) {
		cancel()
		last = err
		n++
	}
	<-closed
	if n != 2 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d turns, last error %v, want a record and the cancellation", n, last)
	}
}

// Ensure that many streams and calls share a client.
func TestConcurrent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, event(1)+event(2))
			return
		}
		answer(200, `{"service_id":"a"}`)(w, r)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := c.Status(t.Context(), "a"); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			ids, errs := take(t, c, &solov1.WatchRequest{SinceId: proto.Uint64(0)}, 2)
			if !slices.Equal(ids, []uint64{1, 2}) || errs != nil {
				t.Errorf("got %v, %v", ids, errs)
			}
		})
	}
	wg.Wait()
}
