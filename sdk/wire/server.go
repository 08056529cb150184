package wire

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// Handler answers calls; each runs in a goroutine of its own. ctx ends with the
// caller's deadline, with its connection, and with the server. It returns a Reply
// in every case.
type Handler func(ctx context.Context, head *Head, body []byte) *Reply

// Server serves the face of a socket.
type Server struct {
	// Handler answers the data face.
	Handler Handler
	// MaxBody bounds the body of a call; 0 is [MaxBody].
	MaxBody int
	// MaxConns bounds the connections at once, and so what a peer can make this side
	// hold; one more is closed. 0 is no bound.
	MaxConns int
	// Shutdown is called when go-plugin asks for the end, after it has its answer.
	// nil offers no control face.
	Shutdown func()
	// Allow decides who may connect; nil is everybody.
	Allow func(Cred) bool

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool
	group  sync.WaitGroup
}

// Serve accepts connections until l is closed. It returns when the listener
// fails; use Close to end the connections too.
func (s *Server) Serve(l *Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
				// Out of descriptors: some will come back.
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		if !s.track(conn) {
			conn.Close()
			if s.ended() {
				return os.ErrClosed
			}
			continue
		}
		go func() {
			defer s.untrack(conn)
			s.serve(conn)
		}()
	}
}

func (s *Server) track(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.MaxConns > 0 && len(s.conns) >= s.MaxConns {
		return false
	}
	if s.conns == nil {
		s.conns = map[*Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	s.group.Add(1)
	return true
}

func (s *Server) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) untrack(c *Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.group.Done()
}

// Close ends every connection and waits for the handlers.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.group.Wait()
}

// sniffTime is how long a new connection may take to say what it is.
const sniffTime = 10 * time.Second

func (s *Server) serve(c *Conn) {
	if s.Allow != nil {
		if cred, err := PeerCred(c); err != nil || !s.Allow(cred) {
			return
		}
	}
	c.file.SetReadDeadline(time.Now().Add(sniffTime))
	first, err := c.r.Peek(len(Magic))
	if err != nil {
		return
	}
	c.file.SetReadDeadline(time.Time{})
	switch {
	case string(first) == Magic:
		c.r.Discard(len(Magic))
		s.calls(c)
	case bytes.HasPrefix([]byte(preface), first) && s.Shutdown != nil:
		control(c, s.Shutdown)
	}
}

// calls serves the data face of one connection.
func (s *Server) calls(c *Conn) {
	limit := s.MaxBody
	if limit == 0 {
		limit = MaxBody
	}
	w := watch{conn: c}
	for {
		head, body, too, err := c.readCall(limit)
		if err != nil {
			return
		}
		var reply *Reply
		if too {
			reply = &Reply{Code: "too_large", Message: "the body is too large"}
		} else {
			ctx, cancel := w.begin(head.TimeoutMS)
			reply = s.Handler(ctx, &head, body)
			alive := w.end()
			cancel()
			if !alive {
				return
			}
		}
		err = c.reply(reply)
		if reply.Then != nil {
			reply.Then()
		}
		if err != nil {
			return
		}
	}
}

// replyTime is how long a caller may take to accept its answer.
const replyTime = 30 * time.Second

func (c *Conn) reply(r *Reply) error {
	var err error
	c.out = c.out[:0]
	if len(r.Body) > MaxBody {
		r = &Reply{Code: "service_error", Message: "the reply is larger than 8 MiB"}
	}
	if c.out, err = appendReplyHead(c.out, r); err != nil {
		r = &Reply{Code: "service_error", Message: "the reply's metadata are too large"}
		c.out, _ = appendReplyHead(c.out[:0], r)
	}
	c.file.SetWriteDeadline(time.Now().Add(replyTime))
	_, err = c.send(r.Body, func(b []byte) []byte { return appendReplyEnd(b, r.Code, r.Message) })
	return err
}

// watch ends a call's context when its connection closes. Looking for that costs
// more than most calls take, so it begins after watchAfter.
type watch struct {
	conn   *Conn
	timer  *time.Timer
	cancel context.CancelFunc

	mu      sync.Mutex
	running bool
	done    chan struct{}
	gone    bool
}

const watchAfter = 5 * time.Millisecond

func (w *watch) begin(timeoutMS uint32) (context.Context, context.CancelFunc) {
	var ctx context.Context
	if timeoutMS > 0 {
		ctx, w.cancel = context.WithTimeout(context.Background(), time.Duration(timeoutMS)*time.Millisecond)
	} else {
		ctx, w.cancel = context.WithCancel(context.Background())
	}
	w.mu.Lock()
	w.running, w.done = true, nil
	w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.look)
	} else {
		w.timer.Reset(watchAfter)
	}
	return ctx, w.cancel
}

// look waits for a byte or the end of the connection while a call runs.
func (w *watch) look() {
	w.mu.Lock()
	if !w.running {
		w.mu.Unlock()
		return
	}
	done := make(chan struct{})
	w.done = done
	w.mu.Unlock()
	defer close(done)
	if _, err := w.conn.r.Peek(1); err != nil && !expired(err) {
		w.gone = true
		w.cancel()
	}
}

// end stops the watching; false if the connection is gone.
func (w *watch) end() bool {
	w.timer.Stop()
	w.mu.Lock()
	w.running = false
	done := w.done
	w.mu.Unlock()
	if done != nil {
		w.conn.file.SetReadDeadline(past)
		<-done
		w.conn.file.SetReadDeadline(time.Time{})
	}
	return !w.gone
}
