package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	frameHead = 'H'
	frameBody = 'B'
	frameEnd  = 'E'

	frameHeader = 5
)

// Head begins a call.
type Head struct {
	Kind Kind
	// TimeoutMS is what is left of the caller's deadline; 0 is none.
	TimeoutMS   uint32
	Method      string
	ContentType string
	Metadata    map[string]string
}

// Reply is the answer to a call. An empty Code is success.
type Reply struct {
	ContentType string
	Metadata    map[string]string
	Body        []byte
	Code        string
	Message     string
	// Then, if not nil, is called by the server once the answer is written, or
	// cannot be. It is not sent.
	Then func()
}

// ErrTooLarge is a message of the other side, or one's own, over its bound.
var ErrTooLarge = errors.New("wire: message too large")

func errProtocol(why string) error { return fmt.Errorf("wire: %s", why) }

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendPairs(b []byte, m map[string]string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	for k, v := range m {
		b = appendString(appendString(b, k), v)
	}
	return b
}

// begin opens a frame in b; finish writes its length once its payload is there.
func begin(b []byte, kind byte) ([]byte, int) {
	return append(b, kind, 0, 0, 0, 0), len(b)
}

func finish(b []byte, start, limit int) ([]byte, error) {
	n := len(b) - start - frameHeader
	if n > limit {
		return b[:start], ErrTooLarge
	}
	binary.BigEndian.PutUint32(b[start+1:], uint32(n))
	return b, nil
}

// fits reports whether every string can be given with two bytes of length.
func fits(m map[string]string, more ...string) bool {
	total := 0
	for _, s := range more {
		total += len(s)
	}
	for k, v := range m {
		total += len(k) + len(v) + 4
	}
	return total <= MaxHead-64 && len(m) <= 1024
}

func appendHead(b []byte, h *Head) ([]byte, error) {
	if !fits(h.Metadata, h.Method, h.ContentType) {
		return b, ErrTooLarge
	}
	b, start := begin(b, frameHead)
	b = append(b, byte(h.Kind))
	b = binary.BigEndian.AppendUint32(b, h.TimeoutMS)
	b = appendString(appendString(b, h.Method), h.ContentType)
	return finish(appendPairs(b, h.Metadata), start, MaxHead)
}

func appendReplyHead(b []byte, r *Reply) ([]byte, error) {
	if !fits(r.Metadata, r.ContentType) {
		return b, ErrTooLarge
	}
	b, start := begin(b, frameHead)
	return finish(appendPairs(appendString(b, r.ContentType), r.Metadata), start, MaxHead)
}

func appendReplyEnd(b []byte, code, message string) []byte {
	b, start := begin(b, frameEnd)
	b = appendString(appendString(b, cut(code, 256)), cut(message, MaxHead/2))
	b, _ = finish(b, start, MaxHead)
	return b
}

// cut keeps the end of a text that is too long: errors have their reason there.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[len(s)-n:]
}

func appendEnd(b []byte) []byte { return append(b, frameEnd, 0, 0, 0, 0) }

// small is up to which size a body is copied behind its head, so that the whole
// message is one write.
const small = 32 << 10

// send writes a message whose head is in c.out; tail appends its end. written
// tells whether a byte may have reached the other side.
func (c *Conn) send(body []byte, tail func([]byte) []byte) (written bool, err error) {
	flush := func() error {
		n, err := c.file.Write(c.out)
		written = written || n > 0
		c.out = c.out[:0]
		return err
	}
	for len(body) > 0 {
		chunk := body[:min(len(body), MaxChunk)]
		body = body[len(chunk):]
		c.out = append(c.out, frameBody)
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(chunk)))
		if len(chunk) <= small {
			c.out = append(c.out, chunk...)
			continue
		}
		if err := flush(); err != nil {
			return written, err
		}
		if _, err := c.file.Write(chunk); err != nil {
			return written, err
		}
	}
	c.out = tail(c.out)
	err = flush()
	if cap(c.out) > MaxChunk {
		c.out = nil
	}
	return written, err
}

// frame reads the head of the next frame.
func (c *Conn) frame() (kind byte, n int, err error) {
	header, err := c.r.Peek(frameHeader)
	if err != nil {
		if len(header) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	kind = header[0]
	length := binary.BigEndian.Uint32(header[1:])
	limit := uint32(MaxHead)
	switch kind {
	case frameBody:
		limit = MaxChunk
	case frameHead, frameEnd:
	default:
		return 0, 0, errProtocol("unknown frame")
	}
	if length > limit {
		return 0, 0, ErrTooLarge
	}
	c.r.Discard(frameHeader)
	return kind, int(length), nil
}

// payload reads n bytes, which frame has bounded.
func (c *Conn) payload(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

// view returns the n bytes of a payload, which frame has bounded, for as long as
// nothing else is read: out of the buffer where they fit, and without a copy.
func (c *Conn) view(n int) ([]byte, error) {
	if n > c.r.Size() {
		return c.payload(n)
	}
	b, err := c.r.Peek(n)
	if err != nil {
		return nil, unexpected(err)
	}
	c.r.Discard(n)
	return b, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parser takes the fields of a Head or an End apart.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if p.bad || len(p.b) < n {
		p.bad = true
		return nil
	}
	part := p.b[:n]
	p.b = p.b[n:]
	return part
}

func (p *parser) u16() int {
	b := p.take(2)
	if b == nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

func (p *parser) string() string { return string(p.take(p.u16())) }

func (p *parser) pairs() map[string]string {
	n := p.u16()
	if n == 0 || n*4 > len(p.b) {
		p.bad = p.bad || n > 0
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := p.string()
		m[k] = p.string()
	}
	return m
}

func parseHead(b []byte) (Head, error) {
	p := parser{b: b}
	var h Head
	if kind := p.take(1); kind != nil {
		h.Kind = Kind(kind[0])
	}
	if ms := p.take(4); ms != nil {
		h.TimeoutMS = binary.BigEndian.Uint32(ms)
	}
	h.Method, h.ContentType, h.Metadata = p.string(), p.string(), p.pairs()
	if p.bad {
		return h, errProtocol("a head is cut short")
	}
	return h, nil
}

// rest reads the body frames and the end frame behind a head. Over the limit the
// body is passed over and too is set, so that the connection stays usable.
func (c *Conn) rest(limit int) (body, end []byte, too bool, err error) {
	total := 0
	for {
		kind, n, err := c.frame()
		if err != nil {
			return nil, nil, too, unexpected(err)
		}
		switch kind {
		case frameBody:
			if total += n; total > limit {
				body, too = nil, true
				if _, err := c.r.Discard(n); err != nil {
					return nil, nil, too, unexpected(err)
				}
				if total > 4*MaxBody {
					return nil, nil, too, ErrTooLarge
				}
				continue
			}
			if body == nil {
				if body, err = c.payload(n); err != nil {
					return nil, nil, too, err
				}
				continue
			}
			at := len(body)
			body = append(body, make([]byte, n)...)
			if _, err := io.ReadFull(c.r, body[at:]); err != nil {
				return nil, nil, too, unexpected(err)
			}
		case frameEnd:
			end, err := c.view(n)
			return body, end, too, err
		default:
			return nil, nil, too, errProtocol("a head within a message")
		}
	}
}

// readCall reads the next call. io.EOF is a peer that has no more.
func (c *Conn) readCall(limit int) (h Head, body []byte, too bool, err error) {
	kind, n, err := c.frame()
	if err != nil {
		return h, nil, false, err
	}
	if kind != frameHead {
		return h, nil, false, errProtocol("a call begins with a head")
	}
	raw, err := c.view(n)
	if err != nil {
		return h, nil, false, err
	}
	if h, err = parseHead(raw); err != nil {
		return h, nil, false, err
	}
	body, _, too, err = c.rest(limit)
	return h, body, too, err
}

// readReply reads the answer to a call.
func (c *Conn) readReply(limit int) (*Reply, error) {
	kind, n, err := c.frame()
	if err != nil {
		return nil, unexpected(err)
	}
	if kind != frameHead {
		return nil, errProtocol("a reply begins with a head")
	}
	raw, err := c.view(n)
	if err != nil {
		return nil, err
	}
	p := parser{b: raw}
	r := &Reply{ContentType: p.string(), Metadata: p.pairs()}
	body, end, too, err := c.rest(limit)
	if err != nil {
		return nil, err
	}
	e := parser{b: end}
	r.Body, r.Code, r.Message = body, e.string(), e.string()
	if p.bad || e.bad {
		return nil, errProtocol("a reply is cut short")
	}
	if too {
		return nil, ErrTooLarge
	}
	return r, nil
}
