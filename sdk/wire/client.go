package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNotSent is the error of a call of which no byte was written to the other
// side: it may be made again.
var ErrNotSent = errors.New("wire: not sent")

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("wire: client closed")

// maxIdle bounds the connections that a client keeps.
const maxIdle = 64

// Client makes calls over pooled connections, one call a connection at a time.
// It may be used by many goroutines at once.
type Client struct {
	dial func(context.Context) (*Conn, error)

	mu     sync.Mutex
	idle   []*Conn
	closed bool
}

// NewClient returns a client that connects by dial, which checks who listens.
func NewClient(dial func(context.Context) (*Conn, error)) *Client { return &Client{dial: dial} }

// Close drops the idle connections; calls under way go on.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	c.mu.Unlock()
	for _, conn := range idle {
		conn.Close()
	}
}

// take returns an idle connection, or a fresh one.
func (c *Client) take(ctx context.Context) (_ *Conn, fresh bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, false, ErrClosed
	}
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, false, nil
	}
	c.mu.Unlock()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	conn.out = append(conn.out[:0], Magic...)
	return conn, true, nil
}

func (c *Client) put(conn *Conn) {
	c.mu.Lock()
	if !c.closed && len(c.idle) < maxIdle {
		c.idle = append(c.idle, conn)
		conn = nil
	}
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Call makes one call and returns its answer; an answer with a code is not an
// error. maxReply bounds the body of the answer ([ErrTooLarge]). When ctx ends, so
// does the call, here and there, with ctx's error. [ErrNotSent] wraps what kept
// the call from being sent at all; any other error is of a connection that broke
// under the call.
func (c *Client) Call(ctx context.Context, head *Head, body []byte, maxReply int) (*Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for {
		conn, fresh, err := c.take(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		reply, err := c.call(ctx, conn, head, body, maxReply)
		if fresh || !errors.Is(err, ErrNotSent) {
			return reply, err
		}
		// An idle connection may have ended unseen, as when solod is upgraded.
	}
}

// call makes one call over a connection, and gives that back or closes it.
func (c *Client) call(ctx context.Context, conn *Conn, head *Head, body []byte, maxReply int) (_ *Reply, err error) {
	if conn.out, err = appendHead(conn.out, head); err != nil {
		conn.Close()
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	conn.file.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.file.SetDeadline(past) })
	written, err := conn.send(body, appendEnd)
	var reply *Reply
	if err == nil {
		reply, err = conn.readReply(maxReply)
	}
	if !stop() || err != nil {
		conn.Close()
	} else {
		c.put(conn)
	}
	switch {
	case err == nil:
		return reply, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case expired(err):
		// The poller saw the deadline a moment before ctx did.
		return nil, context.DeadlineExceeded
	case !written:
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return nil, err
}

// past makes reads and writes return at once.
var past = time.Unix(1, 0)
