// Package sdktest runs a service's handler in a test, without a process.
//
//	s := sdktest.New(t, handler)
//	reply, err := s.Call("add", `{"a": 1, "b": 2}`)
//
// [New] runs the handler's Start, and its Stop when the test ends; the host that
// it is given keeps what is logged and emitted, and has the secrets and services
// that the test gives it.
package sdktest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/solo-run/solo/sdk"
)

// Service is a handler under test. It may be called by many goroutines at once.
type Service struct {
	t       testing.TB
	handler sdk.Handler
	host    *host
}

// Line is one line that the handler logged.
type Line struct {
	Level, Text string
}

// Emitted is one event that the handler emitted.
type Emitted struct {
	Name string
	// Payload is as it stands in JSON.
	Payload map[string]any
}

// Option gives the host something before the handler starts.
type Option func(*host)

// WithSecret gives the handler a secret, as version 1.
func WithSecret(name string, value []byte) Option {
	return func(h *host) { h.setSecret(name, value) }
}

// WithService has calls of a service answered by a handler.
func WithService(id string, handler sdk.Handler) Option {
	return func(h *host) { h.services[id] = handler }
}

// New starts the handler; a Start that fails fails the test.
func New(t testing.TB, h sdk.Handler, options ...Option) *Service {
	t.Helper()
	s := &Service{t: t, handler: h, host: &host{secrets: map[string]sdk.Secret{}, services: map[string]sdk.Handler{}, changed: make(chan struct{})}}
	for _, o := range options {
		o(s.host)
	}
	if c, ok := h.(sdk.Starter); ok {
		if err := c.Start(s.context(), s.host); err != nil {
			t.Fatalf("Start: %v", err)
		}
	}
	if c, ok := h.(sdk.Stopper); ok {
		t.Cleanup(func() {
			if err := c.Stop(sdk.WithHost(context.Background(), s.host)); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	return s
}

func (s *Service) context() context.Context { return sdk.WithHost(s.t.Context(), s.host) }

// Call calls a method with a body and returns the reply's body.
func (s *Service) Call(method, body string) (string, error) {
	resp, err := s.Do(&sdk.Request{Method: method, Body: []byte(body)})
	if err != nil || resp == nil {
		return "", err
	}
	return string(resp.Body), nil
}

// Do makes any call.
func (s *Service) Do(req *sdk.Request) (*sdk.Response, error) {
	return s.handler.Handle(s.context(), req)
}

// Health asks the handler's Health; one without is healthy.
func (s *Service) Health() error {
	if c, ok := s.handler.(sdk.Checker); ok {
		return c.Health(s.context())
	}
	return nil
}

// Logs returns what was logged so far.
func (s *Service) Logs() []Line {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	return append([]Line(nil), s.host.lines...)
}

// Events returns what was emitted so far.
func (s *Service) Events() []Emitted {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	return append([]Emitted(nil), s.host.events...)
}

// SetSecret gives a secret its next version; who watches it is told.
func (s *Service) SetSecret(name string, value []byte) { s.host.setSecret(name, value) }

type host struct {
	mu      sync.Mutex
	lines   []Line
	events  []Emitted
	secrets map[string]sdk.Secret
	// services is set before the handler starts.
	services map[string]sdk.Handler
	// changed is closed when a secret changes.
	changed chan struct{}
}

func (h *host) Log(level string, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, Line{level, fmt.Sprintf(format, args...)})
}

func (h *host) setSecret(name string, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets[name] = sdk.NewSecret(h.secrets[name].Version+1, append([]byte(nil), value...))
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *host) get(name string) (s sdk.Secret, ok bool, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok = h.secrets[name]
	return s, ok, h.changed
}

func (h *host) Secret(_ context.Context, name string) (sdk.Secret, error) {
	s, ok, _ := h.get(name)
	if !ok {
		return sdk.Secret{}, sdk.Errorf("permission_denied", "the service was not given the secret %q: give it by WithSecret", name)
	}
	return s, nil
}

func (h *host) WatchSecret(ctx context.Context, name string, version int) (sdk.Secret, error) {
	for {
		s, ok, changed := h.get(name)
		if !ok || s.Version != version {
			return h.Secret(ctx, name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return sdk.Secret{}, ctx.Err()
		}
	}
}

func (h *host) Call(ctx context.Context, service string, req *sdk.Request) (*sdk.Response, error) {
	handler, ok := h.services[service]
	if !ok {
		return nil, sdk.Errorf("not_found", "there is no service %q: give it by WithService", service)
	}
	resp, err := handler.Handle(ctx, req)
	if resp == nil && err == nil {
		resp = &sdk.Response{}
	}
	return resp, err
}

func (h *host) Emit(_ context.Context, name string, payload any) error {
	text, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("cannot encode the payload: %w", err)
	}
	e := Emitted{Name: name}
	if err := json.Unmarshal(text, &e.Payload); err != nil || e.Payload == nil {
		return sdk.Errorf("invalid_request", "the payload must be a JSON object")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	return nil
}
