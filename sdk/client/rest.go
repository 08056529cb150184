package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Bounds of an answer.
const (
	maxObject = 8 << 20
	maxPage   = 64 << 20
	maxReply  = 8 << 20
	maxHeader = 256 << 10
	// maxUnixPath is what sockaddr_un holds beside its final NUL.
	maxUnixPath = 107
	dialTimeout = 10 * time.Second
	jsonType    = "application/json"
	// maxRetryAfter keeps a wait that a server asks for within reason.
	maxRetryAfter = 24 * time.Hour
)

var unmarshal = protojson.UnmarshalOptions{DiscardUnknown: true}

// rest is the transport over REST.
type rest struct {
	config
	addr string
	base string
	http *http.Client
}

func newREST(addr string, c config) (*rest, error) {
	for what, v := range map[string]string{"tenant": c.tenant, "token": c.token} {
		if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("cannot use the %s: it holds a space, a control or a character outside ASCII", what)
		}
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		TLSClientConfig:        c.tls,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		// The bounds are of what is read: nothing may unfold behind them.
		DisableCompression: true,
	}
	r := &rest{config: c, addr: addr, http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		switch {
		case path == "":
			return nil, fmt.Errorf("cannot use the address %q: the path of the socket is missing", addr)
		case len(path) > maxUnixPath:
			return nil, fmt.Errorf("cannot use the address %q: the path has %d bytes, a unix socket's has at most %d", addr, len(path), maxUnixPath)
		}
		r.base = "http://localhost"
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		}
		return r, nil
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("cannot use the address %q: it must be http://HOST:PORT, https://HOST:PORT or unix:PATH", addr)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	if t.TLSClientConfig.MinVersion == 0 {
		t.TLSClientConfig.MinVersion = tls.VersionTLS12
	}
	r.base = strings.TrimSuffix(addr, "/")
	return r, nil
}

func (r *rest) close() { r.http.CloseIdleConnections() }

// request is one HTTP request before it is bound to a context.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	// contentType is the body's, "" where it has none or nobody said.
	contentType string
	body        []byte
	// max bounds the answer.
	max int64
}

func (r *rest) unary(ctx context.Context, method string, in, out proto.Message) error {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if method == methodInvoke {
		return r.invoke(ctx, in.(*solov1.InvokeRequest), out.(*solov1.InvokeReply))
	}
	q, err := requestFor(method, in)
	if err != nil {
		return err
	}
	data, err := r.json(ctx, q, method == methodHealth)
	if err != nil {
		return err
	}
	if err := decode(data, out); err != nil {
		return fmt.Errorf("%w: %s %s: %v", ErrProtocol, q.method, q.path, err)
	}
	if r.tap != nil {
		r.tap(data)
	}
	return nil
}

func (r *rest) raw(ctx context.Context, method, path string, query url.Values, body []byte) (json.RawMessage, error) {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	q := &request{method: method, path: path, query: query, body: body, max: maxPage}
	if body != nil {
		q.contentType = jsonType
	}
	return r.json(ctx, q, false)
}

// json makes a request and returns the JSON of its answer. health accepts the
// status 503 that comes with how the daemon is.
func (r *rest) json(ctx context.Context, q *request, health bool) (json.RawMessage, error) {
	resp, err := r.send(ctx, q, jsonType)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := r.read(ctx, resp.Body, q.max)
	if err != nil {
		return nil, err
	}
	ok := resp.StatusCode/100 == 2 || health && resp.StatusCode == http.StatusServiceUnavailable && !hasError(data)
	switch {
	case !ok:
		return nil, refusal(resp, data)
	case !json.Valid(data):
		return nil, fmt.Errorf("%w: %s %s: status %d without JSON", ErrProtocol, q.method, q.path, resp.StatusCode)
	}
	return data, nil
}

// copy makes a request and copies its answer to w as it comes.
func (r *rest) copy(ctx context.Context, q *request, w io.Writer) (int64, error) {
	resp, err := r.send(ctx, q, "")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		data, err := r.read(ctx, resp.Body, q.max)
		if err != nil {
			return 0, err
		}
		return 0, refusal(resp, data)
	}
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, r.unreachable(ctx, err)
	}
	return n, nil
}

// send makes a request and returns the answer of any status, its body unread.
func (r *rest) send(ctx context.Context, q *request, accept string) (*http.Response, error) {
	target := r.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(q.body))
	if err != nil {
		return nil, fmt.Errorf("cannot make a request for %s %s: %w", q.method, q.path, err)
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if q.contentType != "" {
		req.Header.Set("Content-Type", q.contentType)
	}
	if r.tenant != "" {
		req.Header.Set("X-Tenant-ID", r.tenant)
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, r.unreachable(ctx, err)
	}
	return resp, nil
}

// read reads a body whole; one over max is not Solo's.
func (r *rest) read(ctx context.Context, body io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, max+1))
	if err != nil {
		return nil, r.unreachable(ctx, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrProtocol, max)
	}
	return data, nil
}

// unreachable tells a context that ended from a daemon that does not answer.
func (r *rest) unreachable(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("no answer from %s: %w", r.addr, cause)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, r.addr, err)
}

// envelope is how every refusal looks.
type envelope struct {
	Error   *Code           `json:"error"`
	Message string          `json:"message"`
	Details json.RawMessage `json:"details"`
}

func hasError(data []byte) bool {
	var e envelope
	return json.Unmarshal(data, &e) != nil || e.Error != nil
}

// refusal makes the error of an answer that is not a success.
func refusal(resp *http.Response, data []byte) error {
	var env envelope
	if json.Unmarshal(data, &env) != nil || env.Error == nil || *env.Error == "" {
		return fmt.Errorf("%w: status %d of %s %s without an error of Solo's", ErrProtocol,
			resp.StatusCode, resp.Request.Method, resp.Request.URL.Path)
	}
	e := &Error{
		Code: *env.Error, Message: env.Message, Details: map[string]any{},
		Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-Id"), details: env.Details,
	}
	var details map[string]any
	if json.Unmarshal(env.Details, &details) == nil && details != nil {
		e.Details = details
	}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		e.RetryAfter = min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	return e
}
