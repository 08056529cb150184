package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxFrame bounds a message on stdin, in bytes: what the daemon takes of one.
const maxFrame = 4 << 20

// The codes of JSON-RPC that are answered here.
const (
	rpcParseError     = -32700
	rpcInvalidRequest = -32600
	rpcServerError    = -32000
)

// rpcError is the answer to a line that is not passed on.
type rpcError struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Data    map[string]any `json:"data,omitempty"`
}

// frames reads messages of JSON-RPC, one a line. No line ends the reading but the
// last.
type frames struct {
	r   *bufio.Reader
	max int
}

// errLongLine is a line over the bound; its beginning is returned.
var errLongLine = errors.New("the line is too long")

// next returns the next line without its end, or the end of the input. Of a line
// over the bound, no more is kept than the bound, and the rest is passed over.
func (f *frames) next() (line []byte, err error) {
	long := false
	for {
		part, err := f.r.ReadSlice('\n')
		if room := f.max + 2 - len(line); len(part) > room {
			long = true
			part = part[:room]
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (!errors.Is(err, io.EOF) || len(line) == 0):
			return nil, err
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if long || len(line) > f.max {
			return line, errLongLine
		}
		return line, nil
	}
}

// message is a line that is one of JSON-RPC: a request with an id, or without one a
// notification.
type message struct {
	id     json.RawMessage
	method string
	params json.RawMessage
}

// judge reads a line. The id is that of the answer to a line that will not do, null
// where none is known. A response, which nobody has asked for, is neither.
func judge(line []byte) (m *message, id json.RawMessage, fault *rpcError) {
	null := json.RawMessage("null")
	switch {
	case len(bytes.TrimSpace(line)) == 0:
		return nil, null, &rpcError{Code: rpcInvalidRequest, Message: "the line is empty: a line is one message of JSON-RPC"}
	case !utf8.Valid(line):
		return nil, null, &rpcError{Code: rpcParseError, Message: "the line is not UTF-8"}
	case !json.Valid(line):
		return nil, null, &rpcError{Code: rpcParseError, Message: "the line is not JSON: a line is one whole message"}
	}
	var raw map[string]json.RawMessage
	if json.Unmarshal(line, &raw) != nil || raw == nil {
		return nil, null, &rpcError{Code: rpcInvalidRequest, Message: "the line is not an object: one message a line, and no batches"}
	}
	if id = raw["id"]; !validID(id) {
		id = null
	}
	var method string
	if json.Unmarshal(raw["method"], &method) != nil || method == "" {
		if raw["result"] != nil || raw["error"] != nil {
			return nil, null, nil
		}
		return nil, id, &rpcError{Code: rpcInvalidRequest, Message: "the message has no method"}
	}
	if raw["id"] != nil && string(id) == "null" {
		return nil, null, &rpcError{Code: rpcInvalidRequest, Message: "an id is a string or a number"}
	}
	return &message{id: raw["id"], method: method, params: raw["params"]}, id, nil
}

// validID reports whether an id is a string or a number.
func validID(id json.RawMessage) bool {
	return len(id) > 0 && (id[0] == '"' || id[0] == '-' || id[0] >= '0' && id[0] <= '9')
}

// tooLong is the answer to a line over the bound. Most clients write the id first, so
// that the one who waits for it can be told.
func tooLong(head []byte) (id json.RawMessage, fault *rpcError) {
	return idOfHead(head), &rpcError{
		Code: rpcInvalidRequest, Message: fmt.Sprintf("the line has more than the %d bytes that are allowed", maxFrame),
		Data: map[string]any{"error": "too_large", "limit": maxFrame},
	}
}

// idOfHead finds the id in the beginning of an object, null where it does not stand
// before the first long value.
func idOfHead(head []byte) json.RawMessage {
	null := json.RawMessage("null")
	dec := json.NewDecoder(bytes.NewReader(head[:min(len(head), 64<<10)]))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return null
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return null
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return null
		}
		if key == "id" && validID(value) {
			return value
		}
	}
	return null
}
