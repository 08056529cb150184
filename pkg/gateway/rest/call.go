package rest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
)

// call is one request.
type call struct {
	echo.Context
	server    *Server
	op        solo.Operation
	principal solo.Principal
	id        string
	// read is the JSON body, once it was read.
	read []byte
	// code is that of the error which was answered, "" for none.
	code solo.Code
}

// handler serves a call: it writes the answer, or returns the error.
type handler func(*call) error

// serve is what surrounds every handler.
func (s *Server) serve(op solo.Operation, h handler) echo.HandlerFunc {
	return func(ec echo.Context) error {
		c := &call{Context: ec, server: s, op: op}
		began := time.Now()
		s.active.Add(1)
		defer s.active.Add(-1)
		if s.draining.Load() {
			ec.Response().Header().Set("Connection", "close")
		}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.fail(c, solo.Internal(fmt.Errorf("panic: %v\n%s", p, debug.Stack())))
			}
			took := time.Since(began)
			if s.cfg.Meter != nil && !op.Streams {
				s.cfg.Meter.Request("rest", op.Name, c.code, took)
			}
			s.cfg.Log.Debug("request", "request_id", c.id, "operation", op.Name, "status", ec.Response().Status, "took", took)
		}()
		ec.Response().Header().Set("X-Request-Id", c.requestID())
		if err := c.admit(); err != nil {
			s.fail(c, err)
			return nil
		}
		if err := h(c); err != nil {
			s.fail(c, err)
		}
		return nil
	}
}

// crossOrigin tells what a browser sends for a page that is not the daemon's own:
// on a laptop, any page that is visited could deploy otherwise.
var crossOrigin = http.NewCrossOriginProtection()

// admit checks what every call is checked for before its body.
func (c *call) admit() error {
	r := c.Request()
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return withStatus(http.StatusUnsupportedMediaType, fmt.Sprintf("a body with Content-Encoding %.40q is not taken", enc))
	}
	if crossOrigin.Check(r) != nil {
		return solo.Errorf(solo.CodePermissionDenied, "a page of another origin may not call this daemon")
	}
	if c.op.Response != nil && !c.op.Streams && !c.accepts("application/json") && (c.op.Media == "" || !c.accepts(c.op.Media)) {
		return withStatus(http.StatusNotAcceptable, "the answer is application/json")
	}
	if c.op.Permission == solo.PermissionNone || c.op.Name == solo.OpDeploy {
		return nil // a deploy may name its tenant in the body
	}
	if err := c.identify(nil); err != nil {
		return err
	}
	return c.authorize()
}

// authorize holds the operation against what the caller's capability allows, where
// the path names what it is about; [call.authorizeFor] does where that stands
// elsewhere.
func (c *call) authorize() error {
	names := c.ParamNames()
	switch {
	case len(names) > 0 && (names[0] == "id" || names[0] == "key"):
		name, err := c.param(names[0])
		if err != nil {
			return err
		}
		method := ""
		if len(names) > 1 && names[1] == "method" {
			if method, err = c.param("method"); err != nil {
				return err
			}
		}
		return c.access().Authorize(c.op, c.principal, name, method)
	case c.op.MaxBody > 0 && strings.HasSuffix(c.op.Resource, "/{id}"), c.op.Name == solo.OpLogs:
		return nil // its body, or its query, names it
	}
	return c.access().Authorize(c.op, c.principal, "", "")
}

// authorizeFor is authorize for what the body or the query names.
func (c *call) authorizeFor(name string) error {
	return c.access().Authorize(c.op, c.principal, name, "")
}

func (c *call) access() gateway.Access {
	return gateway.Access{Engine: c.server.cfg.Engine, RequireCapability: c.server.cfg.RequireCapability}
}

// proofs is what the request shows beside its body.
func (c *call) proofs() identity.Proofs {
	r := c.Request()
	peer, ok := r.Context().Value(peerKey{}).(identity.Peer)
	if !ok {
		peer.UID = -1
	}
	return identity.Proofs{Peer: peer, Tokens: r.Header.Values("Authorization"), Headers: r.Header.Values("X-Tenant-Id")}
}

// identify finds out who is calling, and whether the operation is for them.
func (c *call) identify(body *string) error {
	if p, ok := c.Request().Context().Value(actingKey{}).(solo.Principal); ok {
		return c.actAs(p, body)
	}
	proofs := c.proofs()
	proofs.Body = body
	p, err := c.access().Identify(c.op, proofs)
	if err != nil {
		return err
	}
	c.principal = p
	return nil
}

// requestID is the caller's own where it is a plain word, else one of ours.
func (c *call) requestID() string {
	if c.id == "" {
		c.id = c.Request().Header.Get("X-Request-Id")
		if !plainWord(c.id) {
			c.id = c.server.boot + "-" + strconv.FormatUint(c.server.requests.Add(1), 36)
		}
		c.Response().Header().Set("X-Request-Id", c.id)
	}
	return c.id
}

func plainWord(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return false
	}
	return true
}

// param is a part of the path, decoded once: the route was found on the escaped
// path where that differs.
func (c *call) param(name string) (string, error) {
	v := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return v, nil
	}
	v, err := url.PathUnescape(v)
	if err != nil {
		return "", solo.InvalidFields(solo.Field{Field: name, Message: "is not escaped as a path is"})
	}
	return v, nil
}

// serviceID is the id in the path.
func (c *call) serviceID() (string, error) {
	id, err := c.param("id")
	if err != nil {
		return "", err
	}
	if err := solo.CheckID(id); err != nil {
		return "", solo.InvalidFields(solo.Field{Field: "service_id", Message: err.Error()})
	}
	return id, nil
}

// body reads the request's body, no more than the operation's bound of it.
func (c *call) body() ([]byte, error) {
	limit := c.op.MaxBody
	r := c.Request()
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	rc := http.NewResponseController(c.Response())
	rc.SetReadDeadline(time.Now().Add(bodyTime))
	// A deadline that passed later would look like a caller that went away.
	defer rc.SetReadDeadline(time.Time{})
	var body []byte
	var err error
	if n := r.ContentLength; n >= 0 {
		body = make([]byte, n)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
		if int64(len(body)) > limit {
			return nil, bodyTooLarge(limit)
		}
	}
	if err != nil {
		return nil, solo.Errorf(solo.CodeInvalidRequest, "the body did not arrive whole")
	}
	return body, nil
}

func bodyTooLarge(limit int64) error {
	return solo.Errorf(solo.CodeTooLarge, "the body has more than the %d bytes that are allowed", limit).With("limit", limit)
}

// What is read of a body that nobody wants (contract 4).
const (
	drainBytes = 64 << 20
	drainTime  = 10 * time.Second
)

// drain reads away what is left of the body.
func (c *call) drain() {
	r := c.Request()
	if r.Body == nil || r.Body == http.NoBody || strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		return
	}
	rc := http.NewResponseController(c.Response())
	rc.SetReadDeadline(time.Now().Add(drainTime))
	io.CopyN(io.Discard, r.Body, drainBytes)
	rc.SetReadDeadline(time.Time{})
}

// json reads a JSON body into out, and tells every fault of it.
func (c *call) json(out any) error {
	media, _, _ := strings.Cut(c.Request().Header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case "", "application/json":
	case "application/x-www-form-urlencoded": // what curl -d says of any body
	default:
		return withStatus(http.StatusUnsupportedMediaType, fmt.Sprintf("the body must be application/json, and not %.80q", media))
	}
	var err error
	if c.read, err = c.body(); err != nil {
		return err
	}
	return decode(c.read, out)
}

// accepts reports whether the caller takes a media type.
func (c *call) accepts(media string) bool {
	kind, _, _ := strings.Cut(media, "/")
	values := c.Request().Header.Values("Accept")
	if len(values) == 0 {
		return true
	}
	for _, v := range values {
		for _, part := range strings.Split(v, ",") {
			name, _, _ := strings.Cut(part, ";")
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case media, "*/*", kind + "/*":
				return true
			}
		}
	}
	return false
}

// answer sends v as JSON.
func (c *call) answer(status int, v any) error { return c.JSON(status, v) }

// query reads the known parameters of the query; each at most once.
type query struct {
	values url.Values
	fields []solo.Field
}

func (c *call) query() *query {
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.bad("query", "is not escaped as a query is")
	}
	return q
}

func (q *query) bad(name, message string) {
	q.fields = append(q.fields, solo.Field{Field: name, Message: message})
}

func (q *query) text(name string) string {
	list := q.values[name]
	if len(list) > 1 {
		q.bad(name, "is given more than once")
	}
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (q *query) number(name string, otherwise, lo, hi int) int {
	v := q.text(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < lo || n > hi {
		q.bad(name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
		return otherwise
	}
	return n
}

func (q *query) flag(name string) bool {
	switch q.text(name) {
	case "", "false", "0":
		return false
	case "true", "1":
		return true
	}
	q.bad(name, "must be true or false")
	return false
}

func (q *query) id(name string) string {
	v := q.text(name)
	if v != "" {
		if err := solo.CheckID(v); err != nil {
			q.bad(name, err.Error())
		}
	}
	return v
}

func (q *query) cursor(name string) (uint64, bool) {
	v := q.text(name)
	if v == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		q.bad(name, "must be an id: a whole number")
	}
	return n, true
}

func (q *query) time(name string) time.Time {
	v := q.text(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		q.bad(name, "must be a time of RFC 3339, such as 2026-01-02T15:04:05Z")
	}
	return t
}

func (q *query) word(name string, words ...string) string {
	v := q.text(name)
	if v == "" {
		return ""
	}
	for _, w := range words {
		if v == w {
			return v
		}
	}
	q.bad(name, "must be one of "+strings.Join(words, ", "))
	return v
}

func (q *query) err() error {
	if len(q.fields) == 0 {
		return nil
	}
	return solo.InvalidFields(q.fields...)
}

var errGone = errors.New("the reader is gone")
