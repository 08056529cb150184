package sdk

import (
	"context"
	"encoding/json"
	"fmt"
)

// Request is one call of a method.
type Request struct {
	Method      string
	Body        []byte
	ContentType string
	// Metadata holds caller, request_id and version, and each X-Solo-Meta-* of the
	// caller under its own name.
	Metadata map[string]string
}

// Response is the answer to a call. A nil Response is an empty one.
type Response struct {
	Body        []byte
	ContentType string
	Metadata    map[string]string
}

// Handler answers calls. An error of [Errorf] reaches the caller with its code;
// any other is service_error with its text. A panic is that call's service_error,
// and a line in the log with its stack.
type Handler interface {
	Handle(ctx context.Context, req *Request) (*Response, error)
}

// HandlerFunc is a func that is a Handler.
type HandlerFunc func(ctx context.Context, req *Request) (*Response, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, req *Request) (*Response, error) {
	return f(ctx, req)
}

// Methods is a Handler that hands each call to the handler under the method's
// name; a method that is not there is not_found. It is made for embedding.
type Methods map[string]Handler

// Handle calls the handler of the request's method.
func (m Methods) Handle(ctx context.Context, req *Request) (*Response, error) {
	h, ok := m[req.Method]
	if !ok || h == nil {
		return nil, Errorf("not_found", "the service has no method %q", req.Method)
	}
	return h.Handle(ctx, req)
}

// JSON makes a Handler of a func over Go values, by encoding/json: unknown fields
// are ignored, an empty body is the zero In, one that does not fit is
// invalid_request.
func JSON[In, Out any](f func(ctx context.Context, in In) (Out, error)) Handler {
	return HandlerFunc(func(ctx context.Context, req *Request) (*Response, error) {
		var in In
		if len(req.Body) > 0 {
			if err := json.Unmarshal(req.Body, &in); err != nil {
				return nil, Errorf("invalid_request", "the body does not fit: %v", err)
			}
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the reply: %w", err)
		}
		return &Response{Body: body, ContentType: "application/json"}, nil
	})
}

// Error is an error with a code for the caller.
type Error struct {
	Code    string
	Message string
	cause   error
}

// Errorf makes an error that reaches the caller with that code: one of those of
// Solo's API, such as invalid_request, not_found, conflict or unavailable. An
// unknown one arrives as service_error. A %w keeps its operand for errors.Is.
func Errorf(code string, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	e := &Error{Code: code, Message: err.Error()}
	if w, ok := err.(interface{ Unwrap() error }); ok {
		e.cause = w.Unwrap()
	}
	return e
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what the message was made from, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Starter is a Handler that prepares itself: the first call comes after Start has
// returned, and an error ends the start of the service. It has the service's
// start_timeout_ms.
type Starter interface {
	Start(ctx context.Context, host Host) error
}

// Stopper is a Handler that tidies up: the process ends when Stop has returned.
// It has the service's stop_timeout_ms.
type Stopper interface {
	Stop(ctx context.Context) error
}

// Checker is a Handler that knows whether it can take calls: while Health returns
// an error, the service gets none. It is asked each health interval.
type Checker interface {
	Health(ctx context.Context) error
}

// Host is what solod does for a service.
type Host interface {
	// Log writes a line into the service's log, at level debug, info, warn or
	// error; it is there when Log returns.
	Log(level string, format string, args ...any)

	// Secret returns a secret of the tenant's that the deploy names in secrets. The
	// error is an [*Error]: permission_denied for one that it does not name, not_found
	// for one that was revoked, unavailable while the vault is locked.
	Secret(ctx context.Context, name string) (Secret, error)

	// WatchSecret returns the secret once it has another version than that, or is
	// revoked; with ctx's end, ctx's error.
	WatchSecret(ctx context.Context, name string, version int) (Secret, error)

	// Call calls a method of another service of the tenant's, as the deploy's grants
	// allow, within ctx's deadline. A chain of calls has at most 8 links. A request has
	// at most 1 MiB, a reply 8 MiB.
	Call(ctx context.Context, service string, req *Request) (*Response, error)

	// Emit appends an event "app." + name to the tenant's log, where the deploy grants
	// write on events; it is durable when Emit returns. payload becomes a JSON object
	// of at most 16 KiB.
	Emit(ctx context.Context, name string, payload any) error
}

// Secret is the value of a secret. It prints as [redacted], whatever the verb.
type Secret struct {
	// Version counts the values that the secret has had.
	Version int
	value   []byte
}

// NewSecret makes a secret, for tests.
func NewSecret(version int, value []byte) Secret { return Secret{version, value} }

const redacted = "[redacted]"

// Bytes returns the value.
func (s Secret) Bytes() []byte { return s.value }

// Text returns the value as a string.
func (s Secret) Text() string { return string(s.value) }

// String redacts.
func (Secret) String() string { return redacted }

// GoString redacts.
func (Secret) GoString() string { return redacted }

// Format redacts whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON redacts.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

type hostKey struct{}

// HostFrom returns the host of a call's context. Outside a call of a service, it
// is one that logs to standard error.
func HostFrom(ctx context.Context) Host {
	if h, ok := ctx.Value(hostKey{}).(Host); ok {
		return h
	}
	return stderrHost{}
}

// WithHost returns a context whose host is h, for tests; package sdktest does
// that for a whole service.
func WithHost(ctx context.Context, h Host) context.Context {
	return context.WithValue(ctx, hostKey{}, h)
}
