package mcp

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/pkg/solo"
)

// resource is a page of REST to read: the parts of its uri in braces stand in its
// path, or in its query.
type resource struct {
	uri, name, doc string
	path           string
	query          map[string]string
}

// resources are those whose routes there are.
func resources() []resource {
	all := []resource{
		{uri: "solo://events", name: "events", doc: "The newest events of the log.", path: "/events", query: map[string]string{"tail": "true", "limit": "50"}},
		{uri: "solo://events/{since_id}", name: "events since", doc: "The events that follow an id, oldest first.", path: "/events", query: map[string]string{"since_id": "{since_id}", "limit": "50"}},
		{uri: "solo://services/{service_id}/events", name: "events of a service", doc: "The newest events of a service.", path: "/events", query: map[string]string{"service_id": "{service_id}", "tail": "true", "limit": "50"}},
		{uri: "solo://services/{service_id}/versions", name: "versions", doc: "The versions of a service.", path: "/services/{service_id}/versions"},
		{uri: "solo://services/{service_id}/versions/{version}", name: "source", doc: "One version of a service with its source.", path: "/services/{service_id}/versions/{version}"},
	}
	return slices.DeleteFunc(all, func(r resource) bool { return !served(r.path) })
}

// served reports whether the table has a GET of that path.
func served(path string) bool {
	want := strings.Split(path, "/")
	return slices.ContainsFunc(solo.Operations(), func(op solo.Operation) bool {
		have := strings.Split(op.Path, "/")
		if op.Method != http.MethodGet || len(have) != len(want) {
			return false
		}
		for i := range have {
			if have[i] != want[i] && !(strings.HasPrefix(have[i], ":") && strings.HasPrefix(want[i], "{")) {
				return false
			}
		}
		return true
	})
}

// maxResource bounds a resource, in bytes: a source is read whole where a prompt can
// hold it.
const maxResource = 256 << 10

// reader reads a resource in the name of who asks.
func (s *Server) reader(r resource) sdk.ResourceHandler {
	return func(ctx context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		in, ok := ctx.Value(incomingKey{}).(*incoming)
		if !ok {
			return nil, solo.Errorf(solo.CodeInternal, "a read without its request")
		}
		values, ok := match(r.uri, req.Params.URI)
		if !ok {
			return nil, sdk.ResourceNotFoundError(req.Params.URI)
		}
		q := &request{method: http.MethodGet, path: fill(r.path, values, url.PathEscape), query: url.Values{}, header: http.Header{"Accept": {"application/json"}}}
		for name, v := range r.query {
			q.query.Set(name, fill(v, values, func(s string) string { return s }))
		}
		answer := s.call(in.ctx, in, q)
		if answer.status >= 300 {
			f := answer.problem(in.id)
			if f.Error == solo.CodeNotFound {
				return nil, sdk.ResourceNotFoundError(req.Params.URI)
			}
			return nil, &rpcError{Code: codeInvalidParams, Message: string(f.Error) + ": " + f.Message}
		}
		out, err := decode(answer)
		if err != nil {
			return nil, err
		}
		return text(req.Params.URI, "application/json", string(fit(out, maxResource))), nil
	}
}

// match takes the values of a template out of a uri.
func match(template, uri string) (map[string]string, bool) {
	want, have := strings.Split(template, "/"), strings.Split(uri, "/")
	if len(want) != len(have) {
		return nil, false
	}
	values := map[string]string{}
	for i := range want {
		if !strings.HasPrefix(want[i], "{") {
			if want[i] != have[i] {
				return nil, false
			}
			continue
		}
		v, err := url.PathUnescape(have[i])
		if err != nil || v == "" || v == "." || v == ".." {
			return nil, false
		}
		values[want[i]] = v
	}
	return values, true
}

// fill puts the values of a template into a text.
func fill(text string, values map[string]string, escape func(string) string) string {
	for name, v := range values {
		text = strings.ReplaceAll(text, name, escape(v))
	}
	return text
}
