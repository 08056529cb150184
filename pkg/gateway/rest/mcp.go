package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/solo-run/solo/pkg/solo"
)

// actingKey is for the principal of a call that an agent's message makes: it was
// found with the message, whose proofs count once.
type actingKey struct{}

// actAs makes a call in the name of who has sent the message.
func (c *call) actAs(p solo.Principal, body *string) error {
	if body != nil && *body != p.Tenant {
		return solo.Errorf(solo.CodePermissionDenied, "the request names two tenants")
	}
	c.principal = p
	return c.access().Admits(c.op, p)
}

// mcp hands a message to the gateway for agents, whose tools come back here as calls
// of their own.
func (s *Server) mcp(c *call) error {
	if s.agents == nil {
		return solo.Errorf(solo.CodeNotFound, "this daemon has no gateway for agents")
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	r := c.Request()
	r = r.WithContext(context.WithValue(r.Context(), actingKey{}, c.principal))
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(r.Header.Values("Accept")) == 0 {
		r.Header.Set("Accept", "*/*") // which is what nothing means
	}
	w := &refusals{ResponseWriter: c.Response(), draining: s.draining.Load()}
	s.agents.Serve(w, r, c.principal)
	return w.err()
}

// refusals holds back what is refused in plain text, so that it is told as every
// other error is. Messages pass through.
type refusals struct {
	http.ResponseWriter
	// draining connections end with their answer, whatever the inner handler says.
	draining bool
	sent     bool
	status   int
	text     bytes.Buffer
}

func (w *refusals) WriteHeader(status int) {
	w.sent = true
	w.Header().Del("Connection")
	if w.draining {
		w.Header().Set("Connection", "close")
	}
	if status >= 400 && strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		w.status = status
		w.Header().Del("Content-Type")
		w.Header().Del("X-Content-Type-Options")
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *refusals) Write(p []byte) (int, error) {
	if !w.sent {
		w.WriteHeader(http.StatusOK)
	}
	if w.status != 0 {
		return w.text.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController: a stream flushes each message.
func (w *refusals) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// err is the refusal that was held back, nil for none.
func (w *refusals) err() error {
	message := strings.TrimSpace(w.text.String())
	switch w.status {
	case 0:
		return nil
	case http.StatusForbidden:
		return solo.Errorf(solo.CodePermissionDenied, "%s", message)
	case http.StatusRequestEntityTooLarge:
		return bodyTooLarge(solo.MaxMCPBody)
	case http.StatusNotFound:
		return solo.Errorf(solo.CodeNotFound, "%s", message)
	case http.StatusInternalServerError:
		return solo.Internal(errors.New(message))
	}
	return withStatus(w.status, message)
}

// llms is for agents that come to look.
func (s *Server) llms(c *call) error {
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(s.cfg.LLMs))
}
