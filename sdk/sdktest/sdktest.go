// Package sdktest runs a service's handler in a test, without a process.
//
//	s := sdktest.New(t, handler)
//	reply, err := s.Call("add", `{"a": 1, "b": 2}`)
//
// [New] runs the handler's Start, and its Stop when the test ends; the host that
// it is given keeps what is logged.
package sdktest

import (
	"context"
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

// New starts the handler; a Start that fails fails the test.
func New(t testing.TB, h sdk.Handler) *Service {
	t.Helper()
	s := &Service{t: t, handler: h, host: &host{}}
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

type host struct {
	mu    sync.Mutex
	lines []Line
}

func (h *host) Log(level string, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, Line{level, fmt.Sprintf(format, args...)})
}
