package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/solo-run/solo/sdk/wire"
)

// Serve runs the service: it tells solod that it is there, and answers calls until
// it is told to stop. It never returns.
func Serve(h Handler) {
	if h == nil {
		fatal("sdk.Serve: the handler is nil")
	}
	dir := os.Getenv(wire.SocketDirEnv)
	if os.Getenv(wire.CookieKey) != wire.CookieValue || dir == "" {
		fatal("this program is a service of Solo: post its source with `solo deploy`, it does not run by itself")
	}
	l, err := wire.ListenUnix(path.Join(dir, wire.SocketName), 0o600)
	if err != nil {
		fatal(fmt.Sprint("sdk.Serve: ", err))
	}
	s := &service{handler: h, host: &socketHost{client: wire.NewClient(func(ctx context.Context) (*wire.Conn, error) {
		return wire.DialUnix(ctx, path.Join(dir, wire.HostSocketName))
	})}}
	server := &wire.Server{Handler: s.serve, Shutdown: func() { s.exit(0) }, Allow: allowed}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		<-terminate
		s.exit(0)
	}()
	fmt.Println(wire.Handshake(l.Path()))
	fatal(fmt.Sprint("sdk.Serve: ", server.Serve(l)))
}

// allowed are solod, which runs as root or as the service's own user.
func allowed(c wire.Cred) bool { return c.UID == 0 || c.UID == os.Geteuid() }

func fatal(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

// service answers solod's calls with the author's handler.
type service struct {
	handler Handler
	host    Host
	stop    sync.Once
}

func (s *service) serve(ctx context.Context, head *wire.Head, body []byte) *wire.Reply {
	ctx = context.WithValue(WithHost(ctx, s.host), causeKey{}, head.Metadata)
	switch head.Kind {
	case wire.KindCall:
		return s.call(ctx, head, body)
	case wire.KindPing:
		return &wire.Reply{}
	case wire.KindHealth:
		if c, ok := s.handler.(Checker); ok {
			return answer(guard("Health", func() error { return c.Health(ctx) }))
		}
	case wire.KindStart:
		// Not guarded: a start that panics or fails is the end of the process, with
		// its reason in the log.
		if c, ok := s.handler.(Starter); ok {
			if err := c.Start(ctx, s.host); err != nil {
				fatal(fmt.Sprint("Start: ", err))
			}
		}
	case wire.KindStop:
		s.runStop(ctx)
		// The answer goes out first; the end of the process is the proof.
		return &wire.Reply{Then: func() { os.Exit(0) }}
	default:
		return &wire.Reply{Code: "invalid_request", Message: "the service's SDK does not know this kind of call"}
	}
	return &wire.Reply{}
}

func (s *service) call(ctx context.Context, head *wire.Head, body []byte) (reply *wire.Reply) {
	var resp *Response
	err := guard("method "+head.Method, func() (err error) {
		resp, err = s.handler.Handle(ctx, &Request{Method: head.Method, Body: body, ContentType: head.ContentType, Metadata: head.Metadata})
		return err
	})
	if err != nil || resp == nil {
		return answer(err)
	}
	return &wire.Reply{Body: resp.Body, ContentType: resp.ContentType, Metadata: resp.Metadata}
}

// guard turns a panic of the author's code into an error, with its stack in the
// log.
func guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			fmt.Fprintf(os.Stderr, "panic in %s: %v\n%s", what, p, debug.Stack())
		}
	}()
	return f()
}

func answer(err error) *wire.Reply {
	if err == nil {
		return &wire.Reply{}
	}
	reply := &wire.Reply{Code: "service_error", Message: err.Error()}
	var coded *Error
	switch {
	case errors.As(err, &coded):
		reply.Code = coded.Code
	case errors.Is(err, context.DeadlineExceeded):
		reply.Code = "deadline_exceeded"
	}
	if reply.Code == "" {
		reply.Code = "service_error"
	}
	return reply
}

func (s *service) runStop(ctx context.Context) {
	s.stop.Do(func() {
		if c, ok := s.handler.(Stopper); ok {
			if err := guard("Stop", func() error { return c.Stop(ctx) }); err != nil {
				fmt.Fprintln(os.Stderr, "Stop:", err)
			}
		}
	})
}

// exit ends the process after the author's Stop. solod bounds how long it may take.
func (s *service) exit(code int) {
	s.runStop(WithHost(context.Background(), s.host))
	os.Exit(code)
}

// socketHost reaches solod over the socket beside the service's own.
type socketHost struct{ client *wire.Client }

// logTime bounds how long a line may take.
const logTime = 5 * time.Second

func (h *socketHost) Log(level string, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(context.Background(), logTime)
	defer cancel()
	_, err := h.client.Call(ctx, &wire.Head{Kind: wire.KindLog, Method: level}, []byte(text), 0)
	if err != nil {
		stderrHost{}.Log(level, "%s", text)
	}
}

// causeKey finds what the call that is being answered was told, for the calls that
// it makes.
type causeKey struct{}

// ask asks solod for something.
func (h *socketHost) ask(ctx context.Context, head *wire.Head, body []byte) (*wire.Reply, error) {
	head.Kind = wire.KindHost
	reply, err := h.client.Call(ctx, head, body, wire.MaxBody)
	switch {
	case err == nil && reply.Code != "":
		return nil, &Error{Code: reply.Code, Message: reply.Message}
	case err != nil && ctx.Err() == nil:
		return nil, &Error{Code: "unavailable", Message: "solod does not answer", cause: err}
	}
	return reply, err
}

func (h *socketHost) Secret(ctx context.Context, name string) (Secret, error) {
	return h.secret(ctx, map[string]string{"name": name})
}

func (h *socketHost) WatchSecret(ctx context.Context, name string, version int) (Secret, error) {
	for {
		s, err := h.secret(ctx, map[string]string{"name": name, "after": strconv.Itoa(version)})
		var e *Error
		if ctx.Err() == nil && errors.As(err, &e) && e.cause != nil {
			// solod was upgraded under the question: it is asked again.
			select {
			case <-time.After(againTime):
				continue
			case <-ctx.Done():
				return Secret{}, ctx.Err()
			}
		}
		return s, err
	}
}

// againTime is how long a question waits that broke off.
const againTime = 200 * time.Millisecond

func (h *socketHost) secret(ctx context.Context, args map[string]string) (Secret, error) {
	reply, err := h.ask(ctx, &wire.Head{Method: "secret", Metadata: args}, nil)
	if err != nil {
		return Secret{}, err
	}
	version, err := strconv.Atoi(reply.Metadata["version"])
	if err != nil {
		return Secret{}, fmt.Errorf("solod's answer has no version: %w", err)
	}
	return Secret{Version: version, value: reply.Body}, nil
}

func (h *socketHost) Call(ctx context.Context, service string, req *Request) (*Response, error) {
	args := map[string]string{"service": service, "method": req.Method, "depth": "0"}
	if cause, ok := ctx.Value(causeKey{}).(map[string]string); ok {
		if depth := cause["depth"]; depth != "" {
			args["depth"] = depth
		}
		args["request_id"] = cause["request_id"]
	}
	for name, value := range req.Metadata {
		if strings.HasPrefix(name, "X-Solo-Meta-") {
			args[name] = value
		}
	}
	reply, err := h.ask(ctx, &wire.Head{Method: "call", ContentType: req.ContentType, Metadata: args}, req.Body)
	if err != nil {
		return nil, err
	}
	return &Response{Body: reply.Body, ContentType: reply.ContentType, Metadata: reply.Metadata}, nil
}

func (h *socketHost) Emit(ctx context.Context, name string, payload any) error {
	text, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("cannot encode the payload: %w", err)
	}
	_, err = h.ask(ctx, &wire.Head{Method: "emit", ContentType: "application/json", Metadata: map[string]string{"name": name}}, text)
	return err
}

// stderrHost is the host outside of a service: it logs, and has nothing else.
type stderrHost struct{}

func (stderrHost) Log(level string, format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", level, fmt.Sprintf(format, args...))
}

func noHost() error {
	return &Error{Code: "unavailable", Message: "there is no solod: this is no call of a service"}
}

func (stderrHost) Secret(context.Context, string) (Secret, error) { return Secret{}, noHost() }

func (stderrHost) WatchSecret(context.Context, string, int) (Secret, error) {
	return Secret{}, noHost()
}

func (stderrHost) Call(context.Context, string, *Request) (*Response, error) { return nil, noHost() }

func (stderrHost) Emit(context.Context, string, any) error { return noHost() }
