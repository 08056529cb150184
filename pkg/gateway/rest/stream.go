package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// writeTime is how long a reader may leave a stream unread.
const writeTime = 30 * time.Second

// streamPage is how many records a stream reads at once.
const streamPage = 256

func (s *Server) events(c *call) error {
	q := c.query()
	eq := solo.EventQuery{Tenant: c.principal.Tenant, ServiceID: q.id("service_id"), Type: solo.EventType(q.text("event_type"))}
	if len(eq.Type) > 128 {
		q.bad("event_type", "has at most 128 bytes")
	}
	eq.Limit = q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit)
	since, asked := q.cursor("since_id")
	eq.SinceID, eq.Tail = since, q.flag("tail")
	if err := q.err(); err != nil {
		return err
	}
	if s.wantsPage(c) {
		page, err := s.cfg.Engine.Events(c.Request().Context(), eq)
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, page)
	}
	last, err := c.lastEventID()
	if err != nil {
		return err
	}
	if eq.SinceID = max(since, last); !asked && last == 0 {
		eq.SinceID = s.cfg.Engine.LastEventID()
	}
	eq.Limit, eq.Tail = streamPage, false
	return s.stream(c, source{
		next: func(ctx context.Context, write func(id uint64, event string, data any) error) (bool, error) {
			// A reader hears once of what retention has cut away before it came to it.
			if first := s.cfg.Engine.FirstEventID(); eq.SinceID+1 < first {
				if err := write(0, "gap", map[string]uint64{"first_id": first}); err != nil {
					return false, err
				}
				eq.SinceID = first - 1
			}
			page, err := s.cfg.Engine.Events(ctx, eq)
			if err != nil {
				return false, err
			}
			for i := range page.Events {
				e := &page.Events[i]
				if err := write(e.ID, string(e.Type), e); err != nil {
					return false, err
				}
			}
			more := page.NextSinceID > eq.SinceID && page.NextSinceID < page.LastID
			eq.SinceID = page.NextSinceID
			return more, nil
		},
		wait: func(ctx context.Context) error { return s.cfg.Engine.WaitEvents(ctx, eq.SinceID) },
	})
}

func (s *Server) logs(c *call) error {
	q := c.query()
	lq := solo.LogQuery{
		Tenant: c.principal.Tenant, ServiceID: q.id("service_id"), Instance: q.number("instance", 0, 1, 1<<31-1),
		Level: q.word("level", "debug", "info", "warn", "error"), Text: q.text("text"),
		Since: q.time("since"), Until: q.time("until"), Tail: q.flag("tail"),
	}
	if len(lq.Text) > 1024 {
		q.bad("text", "has at most 1024 bytes")
	}
	lq.Limit = q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit)
	since, asked := q.cursor("since_id")
	lq.SinceID = since
	if err := q.err(); err != nil {
		return err
	}
	if err := c.authorizeFor(lq.ServiceID); err != nil {
		return err
	}
	if s.wantsPage(c) {
		page, err := s.cfg.Engine.Logs(c.Request().Context(), lq)
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, page)
	}
	last, err := c.lastEventID()
	if err != nil {
		return err
	}
	if lq.SinceID = max(since, last); !asked && last == 0 && lq.Since.IsZero() {
		lq.SinceID = s.cfg.Engine.LastLogID()
	}
	lq.Limit, lq.Tail = streamPage, false
	return s.stream(c, source{
		next: func(ctx context.Context, write func(id uint64, event string, data any) error) (bool, error) {
			page, err := s.cfg.Engine.Logs(ctx, lq)
			if err != nil {
				return false, err
			}
			for i := range page.Logs {
				l := &page.Logs[i]
				if err := write(l.ID, "log", l); err != nil {
					return false, err
				}
			}
			more := len(page.Logs) == streamPage
			lq.SinceID = page.NextSinceID
			return more, nil
		},
		wait: func(ctx context.Context) error { return s.cfg.Engine.WaitLogs(ctx, lq.Tenant, lq.SinceID) },
	})
}

// wantsPage reports whether the caller asked for JSON, and not for a stream.
func (s *Server) wantsPage(c *call) bool {
	for _, v := range c.Request().Header.Values("Accept") {
		if bytes.Contains([]byte(v), []byte("text/event-stream")) {
			return false
		}
	}
	return len(c.Request().Header.Values("Accept")) > 0 && c.accepts("application/json") && !c.accepts("text/event-stream")
}

// lastEventID is how a reader that was cut off goes on.
func (c *call) lastEventID() (uint64, error) {
	v := c.Request().Header.Get("Last-Event-ID")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		return 0, solo.InvalidFields(solo.Field{Field: "Last-Event-ID", Message: "must be an id: a whole number"})
	}
	return n, nil
}

// source is what a stream reads from: next writes a page and tells whether there
// is more; wait returns when there is.
type source struct {
	next func(ctx context.Context, write func(id uint64, event string, data any) error) (more bool, err error)
	wait func(context.Context) error
}

// stream writes server-sent events until the reader goes or the server ends.
func (s *Server) stream(c *call, src source) error {
	if !c.accepts("text/event-stream") {
		return withStatus(http.StatusNotAcceptable, "the answer is text/event-stream or application/json")
	}
	ctx, cancel := s.cfg.Engine.While(c.Request().Context(), c.principal)
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	c.Response().WriteHeader(http.StatusOK)
	out := &sse{w: c.Response(), rc: http.NewResponseController(c.Response())}
	// The first bytes tell the reader that the stream stands.
	if out.comment("stream") != nil {
		return nil
	}
	for {
		more, err := src.next(ctx, out.event)
		if errors.Is(err, errGone) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// The status is sent; the reader comes again and is told then.
			s.cfg.Log.Error("a stream failed", "request_id", c.id, "operation", c.op.Name, "error", err)
			return nil
		}
		if out.flush() != nil {
			return nil
		}
		if more {
			continue
		}
		wait, stop := context.WithTimeout(ctx, s.cfg.Heartbeat)
		err = src.wait(wait)
		stop()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			if out.comment("heartbeat") != nil {
				return nil
			}
		default:
			s.cfg.Log.Error("a stream failed", "request_id", c.id, "operation", c.op.Name, "error", err)
			return nil
		}
	}
}

// sse writes the frames of a stream, each within the reader's deadline.
type sse struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// flushAt is how much is gathered before it is written.
const flushAt = 64 << 10

// event writes a record. Only stored ones have an id.
func (o *sse) event(id uint64, event string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if id > 0 {
		fmt.Fprintf(&o.buf, "id: %d\n", id)
	}
	fmt.Fprintf(&o.buf, "event: %s\ndata: %s\n\n", event, text)
	if o.buf.Len() >= flushAt {
		return o.flush()
	}
	return nil
}

func (o *sse) comment(text string) error {
	fmt.Fprintf(&o.buf, ": %s\n\n", text)
	return o.flush()
}

func (o *sse) flush() error {
	if o.buf.Len() == 0 {
		return nil
	}
	o.rc.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := o.w.Write(o.buf.Bytes()); err != nil {
		return errGone
	}
	o.buf.Reset()
	if o.rc.Flush() != nil {
		return errGone
	}
	return nil
}
