package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/solo-run/solo/pkg/solo"
)

// rpcError is an error of the protocol, not of a tool.
type rpcError = jsonrpc.Error

const (
	codeParseError     = jsonrpc.CodeParseError
	codeInvalidRequest = jsonrpc.CodeInvalidRequest
	codeInvalidParams  = jsonrpc.CodeInvalidParams
	codeMethodNotFound = jsonrpc.CodeMethodNotFound
)

// refuse answers a body that is no message.
func refuse(w http.ResponseWriter, code int64, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":null,"error":{"code":%d,"message":%q}}`, code, message)
}

// request is a call of REST.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
}

// reply is its answer.
type reply struct {
	status int
	header http.Header
	body   bytes.Buffer
	// over is set where it had more bytes than are taken.
	over bool
}

// maxReply bounds an answer before it is shortened: the longest reply of a service,
// and a page of [maxPage] lines.
const maxReply = 16 << 20

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

var errTooLong = errors.New("the answer is too long")

func (r *reply) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body.Len()+len(p) > maxReply {
		r.over = true
		return 0, errTooLong
	}
	return r.body.Write(p)
}

// call makes a call of REST. In whose name, ctx says: it is that of the request that
// came in.
func (s *Server) call(ctx context.Context, in *incoming, q *request) (out *reply) {
	out = &reply{header: http.Header{}}
	target := &url.URL{RawPath: q.path, RawQuery: q.query.Encode()}
	var err error
	if target.Path, err = url.PathUnescape(q.path); err != nil {
		return failed(err)
	}
	if target.Path == target.RawPath {
		target.RawPath = ""
	}
	outer := in.request
	r := (&http.Request{
		Method: q.method, URL: target, RequestURI: target.RequestURI(), Proto: outer.Proto, ProtoMajor: outer.ProtoMajor, ProtoMinor: outer.ProtoMinor,
		Header: http.Header{}, Body: http.NoBody, Host: outer.Host, RemoteAddr: outer.RemoteAddr, TLS: outer.TLS,
	}).WithContext(ctx)
	if q.body != nil {
		r.Body, r.ContentLength = nopCloser{bytes.NewReader(q.body)}, int64(len(q.body))
	}
	for name, values := range q.header {
		r.Header[name] = values
	}
	r.Header.Set("X-Request-Id", in.id)
	// What a handler would have the connection cut for is an answer here.
	defer func() {
		if p := recover(); p != nil {
			out = failed(fmt.Errorf("panic: %v", p))
		}
	}()
	s.calls.ServeHTTP(out, r)
	if out.over {
		return problem(http.StatusInternalServerError, solo.Errorf(solo.CodeTooLarge, "the answer has more than %d bytes: ask for less of it", maxReply).With("limit", maxReply))
	}
	return out
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func failed(err error) *reply { return problem(http.StatusInternalServerError, solo.Internal(err)) }

// problem is an error in the form of an answer.
func problem(status int, err error) *reply {
	out := &reply{header: http.Header{}, status: status}
	out.body.Write(marshal(errorBody(err)))
	return out
}

// failure is an error as a tool tells it.
type failure struct {
	Error   solo.Code      `json:"error"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
	// retryAfter is in seconds, 0 where no time is known.
	retryAfter int
	requestID  string
}

func errorBody(err error) *failure {
	e := solo.AsError(err)
	f := &failure{Error: e.Code, Message: e.Message}
	// Details as they are on the wire.
	if json.Unmarshal(marshal(e.Details), &f.Details) != nil {
		f.Details = nil
	}
	return f
}

// problem reads the error of an answer.
func (r *reply) problem(requestID string) *failure {
	var f failure
	dec := json.NewDecoder(bytes.NewReader(r.body.Bytes()))
	dec.UseNumber()
	if err := dec.Decode(&f); err != nil || f.Error == "" {
		f = failure{Error: solo.CodeInternal, Message: "internal error"}
	}
	f.retryAfter, _ = strconv.Atoi(r.header.Get("Retry-After"))
	if f.Error == solo.CodeInternal {
		f.requestID = requestID
	}
	return &f
}

// marshal is JSON without the escapes that are made for HTML.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return []byte(`{"error":"internal","message":"the answer cannot be encoded"}`)
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
