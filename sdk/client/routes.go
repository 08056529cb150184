package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

const (
	metaPrefix       = "X-Solo-Meta-"
	maxInvokeTimeout = 300 * time.Second
)

// requestFor is the table of calls: what each method is on REST.
func requestFor(method string, in proto.Message) (*request, error) {
	switch method {
	case methodDeploy:
		body, err := deployBody(in.(*solov1.DeployRequest))
		return &request{method: "POST", path: "/services", contentType: jsonType, body: body, max: maxObject}, err
	case methodCheck:
		q := in.(*solov1.DeployRequest)
		body, err := deployBody(q)
		if err != nil {
			return nil, err
		}
		out, err := serviceRequest("POST", q.GetServiceId(), "/check")
		if err != nil {
			return nil, err
		}
		out.contentType, out.body = jsonType, body
		return out, nil
	case methodStatus:
		return serviceRequest("GET", in.(*solov1.StatusRequest).GetServiceId(), "")
	case methodRestart:
		return serviceRequest("POST", in.(*solov1.RestartRequest).GetServiceId(), "/restart")
	case methodKill:
		q := in.(*solov1.KillRequest)
		out, err := serviceRequest("DELETE", q.GetServiceId(), "")
		if err != nil {
			return nil, err
		}
		if q.TimeoutMs != nil {
			out.query.Set("timeout_ms", strconv.FormatInt(q.GetTimeoutMs(), 10))
		}
		setBool(out.query, "force", q.GetForce())
		setBool(out.query, "purge", q.GetPurge())
		return out, nil
	case methodList:
		q := in.(*solov1.ListRequest)
		v := url.Values{}
		setString(v, "state", q.GetState())
		setInt(v, "limit", q.GetLimit())
		setInt(v, "offset", q.GetOffset())
		return &request{method: "GET", path: "/services", query: v, max: maxPage}, nil
	case methodWatch:
		q := in.(*solov1.WatchRequest)
		v := url.Values{}
		setID(v, "since_id", q.SinceId)
		setString(v, "service_id", q.GetServiceId())
		setString(v, "event_type", q.GetEventType())
		setInt(v, "limit", q.GetLimit())
		return &request{method: "GET", path: "/events", query: v, max: maxPage}, nil
	case methodLogs:
		q := in.(*solov1.LogsRequest)
		v := url.Values{}
		setID(v, "since_id", q.SinceId)
		setString(v, "service_id", q.GetServiceId())
		setInt(v, "instance", q.GetInstance())
		setString(v, "level", q.GetLevel())
		setString(v, "text", q.GetText())
		setTime(v, "since", q.GetSince())
		setTime(v, "until", q.GetUntil())
		setInt(v, "limit", q.GetLimit())
		setBool(v, "tail", q.GetTail())
		return &request{method: "GET", path: "/logs", query: v, max: maxPage}, nil
	case methodExplain:
		return serviceRequest("GET", in.(*solov1.ExplainRequest).GetServiceId(), "/explain")
	case methodCrashes:
		q := in.(*solov1.CrashesRequest)
		out, err := serviceRequest("GET", q.GetServiceId(), "/crashes")
		if err != nil {
			return nil, err
		}
		setInt(out.query, "limit", q.GetLimit())
		setInt(out.query, "offset", q.GetOffset())
		out.max = maxPage
		return out, nil
	case methodWait:
		body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request: %w", err)
		}
		if body, err = plainNumbers(body); err != nil {
			return nil, err
		}
		return &request{method: "POST", path: "/wait", contentType: jsonType, body: body, max: maxObject}, nil
	case methodTree:
		return &request{method: "GET", path: "/tree", max: maxPage}, nil
	case methodVerifyEvents:
		return &request{method: "GET", path: "/events/verify", max: maxObject}, nil
	case methodHealth:
		return &request{method: "GET", path: "/health", max: maxObject}, nil
	case methodShutdown:
		return &request{method: "POST", path: "/shutdown", max: maxObject}, nil
	}
	panic("client: no route for " + method)
}

func serviceRequest(method, serviceID, suffix string) (*request, error) {
	segment, err := pathSegment("service_id", serviceID)
	if err != nil {
		return nil, err
	}
	return &request{method: method, path: "/services/" + segment + suffix, query: url.Values{}, max: maxObject}, nil
}

// pathSegment escapes a name so that it stays one segment. An empty one would
// make another call of the request, and dots could be taken for a step upward.
func pathSegment(what, name string) (string, error) {
	switch name {
	case "":
		return "", refuse("%s must not be empty", what)
	case ".", "..":
		return strings.ReplaceAll(name, ".", "%2E"), nil
	}
	return url.PathEscape(name), nil
}

func setString(v url.Values, name, s string) {
	if s != "" {
		v.Set(name, s)
	}
}

func setInt(v url.Values, name string, n int32) {
	if n != 0 {
		v.Set(name, strconv.Itoa(int(n)))
	}
}

func setBool(v url.Values, name string, b bool) {
	if b {
		v.Set(name, "true")
	}
}

func setID(v url.Values, name string, id *uint64) {
	if id != nil {
		v.Set(name, strconv.FormatUint(*id, 10))
	}
}

func setTime(v url.Values, name string, t *timestamppb.Timestamp) {
	if t != nil {
		v.Set(name, t.AsTime().Format(time.RFC3339Nano))
	}
}

// plainNumbers undoes what protojson does to 64-bit integers, which it writes as
// strings: since_id is a number in Solo's JSON.
func plainNumbers(body []byte) ([]byte, error) {
	var fields map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("cannot encode the request: %w", err)
	}
	if id, ok := fields["since_id"].(string); ok {
		fields["since_id"] = json.Number(id)
	}
	return json.Marshal(fields)
}

// deployBody is the JSON of a deploy: as protojson has it, but with the source
// as text.
func deployBody(q *solov1.DeployRequest) ([]byte, error) {
	settings := proto.CloneOf(q)
	settings.Code, settings.Files = nil, nil
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the request: %w", err)
	}
	var fields map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("cannot encode the request: %w", err)
	}
	if q.Code != nil {
		if err := checkText("code", q.GetCode()); err != nil {
			return nil, err
		}
		fields["code"] = string(q.GetCode())
	}
	if len(q.GetFiles()) > 0 {
		files := make(map[string]string, len(q.GetFiles()))
		for name, data := range q.GetFiles() {
			if err := checkText(name, data); err != nil {
				return nil, err
			}
			files[name] = string(data)
		}
		fields["files"] = files
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(fields); err != nil {
		return nil, fmt.Errorf("cannot encode the request: %w", err)
	}
	return out.Bytes(), nil
}

// checkText refuses what JSON would carry as something else.
func checkText(name string, data []byte) error {
	if utf8.Valid(data) {
		return nil
	}
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return refuse("%s is not UTF-8 at byte %d", name, at)
}

// invoke makes the one call whose bodies are not JSON of the daemon's.
func (r *rest) invoke(ctx context.Context, in *solov1.InvokeRequest, out *solov1.InvokeReply) error {
	service, err := pathSegment("service_id", in.GetServiceId())
	if err != nil {
		return err
	}
	method, err := pathSegment("method", in.GetMethod())
	if err != nil {
		return err
	}
	q := &request{method: "POST", path: "/services/" + service + "/invoke/" + method, header: http.Header{}, max: maxReply}
	q.body, q.contentType = in.GetBody(), in.GetContentType()
	if !headerValue(q.contentType) {
		return refuse("content_type %q cannot go into a header", q.contentType)
	}
	for k, v := range in.GetMetadata() {
		if !headerToken(k) || !headerValue(v) {
			return refuse("metadata %q cannot go into a header", k)
		}
		q.header.Set(metaPrefix+k, v)
	}
	if ms := timeoutMS(ctx, in); ms > 0 {
		q.header.Set("X-Timeout-Ms", strconv.FormatInt(ms, 10))
	}
	resp, err := r.send(ctx, q, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := r.read(ctx, resp.Body, q.max)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return refusal(resp, data)
	}
	out.Body, out.ContentType = data, resp.Header.Get("Content-Type")
	for k := range resp.Header {
		if name, ok := strings.CutPrefix(k, metaPrefix); ok {
			if out.Metadata == nil {
				out.Metadata = map[string]string{}
			}
			out.Metadata[strings.ToLower(name)] = resp.Header.Get(k)
		}
	}
	return nil
}

// timeoutMS is the deadline that the service is told: the caller's, else what
// the context leaves; 0 is the daemon's own.
func timeoutMS(ctx context.Context, in *solov1.InvokeRequest) int64 {
	if in.TimeoutMs != nil {
		return in.GetTimeoutMs()
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := min(time.Until(deadline), maxInvokeTimeout)
	return max(int64(left/time.Millisecond), 1)
}

func headerValue(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

func headerToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
