package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

func readAll(r io.Reader) (out []sseRecord, err error) {
	for s := newSSEReader(r); ; {
		rec, err := s.next()
		if err != nil {
			return out, err
		}
		out = append(out, rec)
	}
}

func TestSSE(t *testing.T) {
	in := ": comment\n\n\n\nid: 1\nevent: a\ndata: x\n\nid:2\r\ndata:  two\r\ndata\r\ndata:end\r\nretry: 5\r\n\r\nunknown\n\nevent: gap\ndata: 7\n\nid: 3\ndata: cut"
	got, err := readAll(strings.NewReader(in))
	want := []sseRecord{
		{id: "1", event: "a", data: []byte("x")},
		{id: "2", data: []byte(" two\n\nend")},
		{event: "gap", data: []byte("7")},
	}
	if !reflect.DeepEqual(got, want) || err != io.EOF {
		t.Errorf("got %q, %v", got, err)
	}
}

// Ensure that comments never add up to a record that is too long.
func TestSSEQuietNight(t *testing.T) {
	comment := ":" + strings.Repeat("x", 1<<20) + "\n"
	r := io.MultiReader(strings.NewReader(strings.Repeat(comment, 10)+"\n"+strings.Repeat(comment, 10)), strings.NewReader("id: 1\ndata: x\n\n"))
	got, err := readAll(r)
	if len(got) != 1 || err != io.EOF {
		t.Errorf("got %q, %v", got, err)
	}
}

// The reader must be bounded, must not care how the bytes come, and must give no
// record that the stream did not end.
func FuzzSSE(f *testing.F) {
	f.Add([]byte("id: 1\nevent: a\ndata: {}\n\n"))
	f.Add([]byte(": c\r\n\r\ndata\ndata: b\r\n\r\n"))
	f.Add([]byte("id: 1\r\r\n\n:\n\n\ndata:x\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, errWhole := readAll(bytes.NewReader(in))
		single, errSingle := readAll(iotest.OneByteReader(bytes.NewReader(in)))
		if !reflect.DeepEqual(whole, single) || errWhole != io.EOF || errSingle != io.EOF {
			t.Fatalf("at once %q, %v; byte by byte %q, %v", whole, errWhole, single, errSingle)
		}
		ends := bytes.Count(in, []byte("\n\n")) + bytes.Count(in, []byte("\n\r\n"))
		if bytes.HasPrefix(in, []byte("\n")) || bytes.HasPrefix(in, []byte("\r\n")) {
			ends++
		}
		if len(whole) > ends {
			t.Fatalf("%d records of %d ends in %q", len(whole), ends, in)
		}
		for _, rec := range whole {
			if bytes.ContainsAny([]byte(rec.id+rec.event), "\n") {
				t.Fatalf("a field holds a line end: %q", rec)
			}
		}
	})
}

// The error of any answer is one of the three that are promised.
func FuzzRefusal(f *testing.F) {
	f.Add(404, []byte(`{"error":"not_found","message":"m","details":{"diagnostics":[{"line":1}],"exit":{}}}`))
	f.Add(500, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		req, _ := http.NewRequest("GET", "http://localhost/x", nil)
		err := refusal(&http.Response{StatusCode: status, Request: req, Header: http.Header{}}, body)
		var e *Error
		if !errors.As(err, &e) {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if e.Code == "" || e.Details == nil {
			t.Fatalf("got %+v", e)
		}
		e.Diagnostics()
		e.Exit()
	})
}

// silent is a daemon that takes a connection, writes what it has and then
// nothing more.
type silent struct {
	bodies []string
	asked  []time.Duration
	began  time.Time
}

func (s *silent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, time.Since(s.began))
	if len(s.bodies) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	body := s.bodies[0]
	s.bodies = s.bodies[1:]
	pr, pw := io.Pipe()
	go func() {
		io.WriteString(pw, body)
		<-r.Context().Done()
		pw.CloseWithError(r.Context().Err())
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: pr, Request: r}, nil
}

// Ensure that a connection without a sign of life is given up, that the waits
// grow to their bound, and that they begin anew when something came.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one, two = "id: 1\ndata: {\"id\":1}\n\n", "id: 2\ndata: {\"id\":2}\n\n"
		daemon := &silent{bodies: []string{one, ": alive\n"}, began: time.Now()}
		r := &rest{addr: "unix:x", http: &http.Client{Transport: daemon}}
		var waits []time.Duration
		var causes []error
		r.reconnect = func(cause error, wait time.Duration) {
			waits, causes = append(waits, wait), append(causes, cause)
			if len(waits) == 12 {
				daemon.bodies = []string{two}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var ids []uint64
		for m, err := range r.watch(ctx, methodWatch, &solov1.WatchRequest{SinceId: proto.Uint64(0)}, func() proto.Message { return new(solov1.Event) }) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, m.(*solov1.Event).GetId())
			// A consumer that takes its time is not a daemon that is silent.
			time.Sleep(10 * streamSilence)
			if len(ids) == 2 {
				break
			}
		}
		if !reflect.DeepEqual(ids, []uint64{1, 2}) {
			t.Errorf("ids %v", ids)
		}
		if got, want := daemon.asked[1]-daemon.asked[0], 11*streamSilence+waits[0]; got != want {
			t.Errorf("the silent connection was given up after %v, want %v", got, want)
		}
		if !errors.Is(causes[0], ErrUnreachable) || !strings.Contains(causes[0].Error(), "nothing came for 45s") {
			t.Errorf("cause %v", causes[0])
		}
		for i, w := range waits {
			if w < firstReconnect*8/10 || w > lastReconnect*12/10 {
				t.Errorf("wait %d is %v", i, w)
			}
		}
		if waits[0] > firstReconnect*12/10 || waits[11] < lastReconnect*8/10 {
			t.Errorf("waits %v: want them to grow from the first to the bound", waits)
		}
	})
}
