package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// The headers of MCP's streamable HTTP, and the field of a message that says the
// version in their place.
const (
	mcpVersionHeader = "Mcp-Protocol-Version"
	mcpSessionHeader = "Mcp-Session-Id"
	mcpMethodHeader  = "Mcp-Method"
	mcpNameHeader    = "Mcp-Name"
	mcpVersionMeta   = "io.modelcontextprotocol/protocolVersion"
)

// MCPSession carries messages of the Model Context Protocol between a client of it
// and the daemon, as they are. It remembers what initialize has agreed on. It may be
// used by many goroutines at once.
type MCPSession struct {
	rest *rest

	mu          sync.Mutex
	version, id string
}

// MCP begins a session with the daemon's gateway for agents; it connects with the
// first message. REST only.
func (c *Client) MCP() (*MCPSession, error) {
	if c.rest == nil {
		return nil, refuse("gRPC does not offer this call: use an address of http or unix")
	}
	return &MCPSession{rest: c.rest}, nil
}

// mcpMessage is what of a message its transport has to know.
type mcpMessage struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
}

type mcpParams struct {
	Name string         `json:"name"`
	URI  string         `json:"uri"`
	Meta map[string]any `json:"_meta"`
}

// Send sends one message of at most 4 MiB and hands each that comes back to each, in
// order: notifications about a request, then its answer. The end of ctx cancels the
// request. The error is an [*Error] where the daemon refused the message, and that of
// each where it has one.
func (s *MCPSession) Send(ctx context.Context, message json.RawMessage, each func(json.RawMessage) error) error {
	var m mcpMessage
	if err := json.Unmarshal(message, &m); err != nil {
		return fmt.Errorf("cannot send what is no message: %w", err)
	}
	q := &request{method: http.MethodPost, path: "/mcp", contentType: jsonType, body: message, header: s.header(&m)}
	resp, err := s.rest.send(ctx, q, jsonType+", text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answered := len(m.ID) == 0 || m.Method == ""
	take := func(data []byte) error {
		var got mcpMessage
		if err := json.Unmarshal(data, &got); err != nil {
			return fmt.Errorf("%w: a message that is no JSON", ErrProtocol)
		}
		answered = answered || got.Method == ""
		if m.Method == "initialize" {
			s.agreed(got.Result, resp.Header.Get(mcpSessionHeader))
		}
		return each(data)
	}
	if media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media == "text/event-stream" {
		err = s.stream(ctx, resp.Body, take)
	} else {
		err = s.single(ctx, resp, take)
	}
	if err == nil && !answered {
		err = fmt.Errorf("%w: the answer was cut off", ErrProtocol)
	}
	return err
}

// header says what the protocol wants said beside a message.
func (s *MCPSession) header(m *mcpMessage) http.Header {
	s.mu.Lock()
	version, id := s.version, s.id
	s.mu.Unlock()
	var p mcpParams
	// Params that do not fit are the daemon's to refuse.
	_ = json.Unmarshal(m.Params, &p)
	if v, ok := p.Meta[mcpVersionMeta].(string); ok {
		version, id = v, ""
	}
	h := http.Header{}
	set := func(name, v string) {
		if v != "" && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			h.Set(name, v)
		}
	}
	if m.Method != "initialize" {
		set(mcpVersionHeader, version)
		set(mcpSessionHeader, id)
	}
	set(mcpMethodHeader, m.Method)
	switch m.Method {
	case "tools/call":
		set(mcpNameHeader, p.Name)
	case "resources/read":
		set(mcpNameHeader, p.URI)
	}
	return h
}

// agreed keeps the outcome of initialize.
func (s *MCPSession) agreed(result json.RawMessage, id string) {
	var r struct {
		ProtocolVersion string `json:"protocolVersion"`
	}
	if json.Unmarshal(result, &r) == nil && r.ProtocolVersion != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.version, s.id = r.ProtocolVersion, id
	}
}

func (s *MCPSession) stream(ctx context.Context, body io.Reader, take func([]byte) error) error {
	for records := newSSEReader(body); ; {
		rec, err := records.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, ErrProtocol):
			return err
		case err != nil:
			return s.rest.unreachable(ctx, err)
		}
		if len(rec.data) == 0 {
			continue
		}
		if err := take(rec.data); err != nil {
			return err
		}
	}
}

// single reads an answer that is one message, or none. A refusal of the protocol is
// a message, too; one of Solo's is an error.
func (s *MCPSession) single(ctx context.Context, resp *http.Response, take func([]byte) error) error {
	data, err := s.rest.read(ctx, resp.Body, maxRecord)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) == 0 && resp.StatusCode/100 == 2 {
		return nil
	}
	var v struct {
		JSONRPC string `json:"jsonrpc"`
	}
	if json.Unmarshal(data, &v) != nil || v.JSONRPC == "" {
		return refusal(resp, data)
	}
	return take(data)
}
