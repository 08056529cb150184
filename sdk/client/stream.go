package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Times of a stream. The daemon writes a comment each 15 s, so a connection
// that is silent for three of them is dead.
const (
	streamSilence  = 45 * time.Second
	firstReconnect = 100 * time.Millisecond
	lastReconnect  = 5 * time.Second
	// steadyStream is how long a connection must have lived for the waits to begin anew.
	steadyStream = 10 * time.Second
)

// cursor is where a stream stands: the id of the last record that was yielded,
// or passed over.
type cursor struct {
	rest   *rest
	query  *request
	record func() proto.Message
	last   uint64
	// moved says that something was read since the last connection was made.
	moved bool
}

// errStopped ends a stream whose consumer broke off.
var errStopped = errors.New("stopped")

func (r *rest) watch(ctx context.Context, method string, in proto.Message, record func() proto.Message) iter.Seq2[proto.Message, error] {
	return func(yield func(proto.Message, error) bool) {
		c := &cursor{rest: r, record: record}
		err := c.begin(ctx, method, in)
		wait := time.Duration(0)
		for connected := false; ; connected = true {
			if err == nil {
				began := time.Now()
				err = c.follow(ctx, connected, yield)
				if c.moved || time.Since(began) >= steadyStream {
					wait = 0
				}
			}
			switch {
			case errors.Is(err, errStopped):
				return
			case ctx.Err() != nil:
				yield(nil, ctx.Err())
				return
			case !connected && !errors.Is(err, errCut), !resumable(err):
				yield(nil, err)
				return
			}
			if wait = nextWait(wait, err); !sleep(ctx, r.reconnect, wait, err) {
				yield(nil, ctx.Err())
				return
			}
			err = nil
		}
	}
}

// begin sets the cursor. "From now on" is made an id at once, since a stream
// that is cut before its first record would begin at another now.
func (c *cursor) begin(ctx context.Context, method string, in proto.Message) error {
	switch q := in.(type) {
	case *solov1.WatchRequest:
		q = proto.CloneOf(q)
		q.Limit = 0
		if q.SinceId == nil {
			page := new(solov1.EventPage)
			if err := c.newest(ctx, method, &solov1.WatchRequest{Limit: 1}, page); err != nil {
				return err
			}
			q.SinceId = proto.Uint64(page.GetLastId())
		}
		in, c.last = q, q.GetSinceId()
	case *solov1.LogsRequest:
		if q.GetUntil() != nil {
			return refuse("until must be absent: a stream has no end")
		}
		q = proto.CloneOf(q)
		if q.SinceId == nil && q.GetSince() == nil {
			newest := proto.CloneOf(q)
			newest.Limit, newest.Tail = 1, true
			page := new(solov1.LogPage)
			if err := c.newest(ctx, method, newest, page); err != nil {
				return err
			}
			q.SinceId = proto.Uint64(page.GetNextSinceId())
		}
		q.Limit, q.Tail = 0, false
		in, c.last = q, q.GetSinceId()
	}
	var err error
	c.query, err = requestFor(method, in)
	return err
}

func (c *cursor) newest(ctx context.Context, method string, in, page proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, streamSilence)
	defer cancel()
	q, err := requestFor(method, in)
	if err != nil {
		return err
	}
	data, err := c.rest.json(ctx, q, false)
	if err != nil {
		return err
	}
	if err := decode(data, page); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrProtocol, q.path, err)
	}
	return nil
}

// errCut is in the chain of what ended a stream that had begun.
var errCut = errors.New("the stream was cut")

// follow yields what one connection brings, until it ends: with errStopped, an
// error that is final, or one that is resumable.
func (c *cursor) follow(ctx context.Context, again bool, yield func(proto.Message, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.moved = false
	c.query.query.Set("since_id", strconv.FormatUint(c.last, 10))
	c.query.header = http.Header{}
	if again {
		c.query.header.Set("Last-Event-Id", strconv.FormatUint(c.last, 10))
	}
	silence := time.AfterFunc(streamSilence, func() {
		cancel(fmt.Errorf("%w at %s: nothing came for %v", ErrUnreachable, c.rest.addr, streamSilence))
	})
	defer silence.Stop()
	resp, err := c.rest.send(ctx, c.query, "text/event-stream")
	if err != nil {
		return orCause(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		data, err := c.rest.read(ctx, resp.Body, maxObject)
		if err != nil {
			return orCause(ctx, err)
		}
		return refusal(resp, data)
	}
	if t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.TrimSpace(t) != "text/event-stream" {
		return fmt.Errorf("%w: %s is %q instead of a stream", ErrProtocol, c.query.path, t)
	}
	records := newSSEReader(&lively{resp.Body, silence})
	for {
		rec, err := records.next()
		if errors.Is(err, ErrProtocol) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errCut, orCause(ctx, err))
		}
		// Only the wire is timed, not the consumer.
		silence.Stop()
		if err := c.take(rec, yield); err != nil {
			return err
		}
		silence.Reset(streamSilence)
	}
}

// take yields one record.
func (c *cursor) take(rec sseRecord, yield func(proto.Message, error) bool) error {
	if rec.event == "gap" && rec.id == "" {
		first, err := gapID(rec.data)
		if err != nil {
			return fmt.Errorf("%w: gap %.100q", ErrProtocol, rec.data)
		}
		c.moved, c.last = true, max(c.last, first-1)
		if !yield(nil, &Gap{FirstID: first}) {
			return errStopped
		}
		return nil
	}
	if rec.id == "" {
		return nil
	}
	id, err := strconv.ParseUint(rec.id, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: id %.100q of a record", ErrProtocol, rec.id)
	}
	if id <= c.last {
		return nil
	}
	m := c.record()
	if err := decode(rec.data, m); err != nil {
		return fmt.Errorf("%w: record %d: %v", ErrProtocol, id, err)
	}
	c.moved, c.last = true, id
	if c.rest.tap != nil {
		c.rest.tap(rec.data)
	}
	if !yield(m, nil) {
		return errStopped
	}
	return nil
}

// gapID reads the first id that remains: a number, or an object with first_id.
func gapID(data []byte) (uint64, error) {
	var id uint64
	if err := json.Unmarshal(data, &id); err != nil {
		var o struct {
			FirstID uint64 `json:"first_id"`
		}
		if err := json.Unmarshal(data, &o); err != nil {
			return 0, err
		}
		id = o.FirstID
	}
	if id == 0 {
		return 0, errors.New("ids begin at 1")
	}
	return id, nil
}

// resumable reports whether a stream that ended so is worth another connection:
// the daemon was away or busy, and did not refuse.
func resumable(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		switch e.Code {
		case CodeRateLimited, CodeStorageUnavailable, CodeOverloaded, CodeShuttingDown, CodeUnavailable:
			return true
		}
		return false
	}
	return errors.Is(err, errCut) || errors.Is(err, ErrUnreachable)
}

// nextWait doubles the wait up to its cap, with jitter so that many clients do
// not come back at once; a refusal that asks for more gets it.
func nextWait(wait time.Duration, err error) time.Duration {
	wait = min(max(2*wait, firstReconnect), lastReconnect)
	wait += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(wait))
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > wait {
		return e.RetryAfter
	}
	return wait
}

// sleep tells why, waits, and reports whether the context lasted.
func sleep(ctx context.Context, reconnect func(error, time.Duration), wait time.Duration, cause error) bool {
	if reconnect != nil {
		reconnect(cause, wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// orCause prefers the reason that follow cancelled its own context for.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, ErrUnreachable) {
		return cause
	}
	return err
}

// lively puts the silence off with each read that brings something.
type lively struct {
	r       io.Reader
	silence *time.Timer
}

func (l *lively) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.silence.Reset(streamSilence)
	}
	return n, err
}
