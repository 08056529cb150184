package wire

import (
	"encoding/binary"
	"io"
	"time"

	"golang.org/x/net/http2/hpack"
)

// preface is how an HTTP/2 client begins.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// The frames and flags of HTTP/2 (RFC 9113) that matter here.
const (
	h2Data         = 0
	h2Headers      = 1
	h2RSTStream    = 3
	h2Settings     = 4
	h2Ping         = 6
	h2WindowUpdate = 8
	h2Continuation = 9

	h2EndStream  = 0x1
	h2Ack        = 0x1
	h2EndHeaders = 0x4
	h2Padded     = 0x8
	h2Priority   = 0x20

	h2FrameHeader = 9
	h2MaxFrame    = 16384
	// h2MaxHeaders bounds the header block of one request.
	h2MaxHeaders = 64 << 10
	// h2MaxStreams bounds the requests whose body is not whole yet.
	h2MaxStreams = 100
	// h2WriteTime is how long the peer may leave an answer unread: the goroutine
	// that reads also writes, and must not wait for ever.
	h2WriteTime = 5 * time.Second
)

// The calls of go-plugin that are answered; all others are unimplemented.
const (
	pathHealth   = "/grpc.health.v1.Health/Check"
	pathShutdown = "/plugin.GRPCController/Shutdown"
)

// Header blocks of the answers, in HPACK without a dynamic table: ":status: 200",
// "content-type: application/grpc", and "grpc-status" of 0 or 12.
const (
	blockHead          = "\x88\x0f\x10\x10application/grpc"
	blockOK            = "\x00\x0bgrpc-status\x010"
	blockUnimplemented = blockHead + "\x00\x0bgrpc-status\x0212"
)

// control serves go-plugin's calls on one connection with constant answers. Since
// those are a few bytes, there is no flow control to get wrong: the peer's windows
// are never exhausted by them.
func control(c *Conn, shutdown func()) {
	var got [len(preface)]byte
	if _, err := io.ReadFull(c.r, got[:]); err != nil || string(got[:]) != preface {
		return
	}
	s := &h2{conn: c, open: map[uint32]string{}}
	s.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":path" {
			s.path = f.Value
		}
	})
	s.decoder.SetMaxStringLength(h2MaxHeaders)
	s.frame(h2Settings, 0, 0, "")
	for s.flush() == nil {
		if !s.step() {
			s.flush()
			return
		}
		if s.ends {
			if s.flush() == nil {
				shutdown()
			}
			s.ends = false
		}
	}
}

// h2 is the state of one connection.
type h2 struct {
	conn    *Conn
	decoder *hpack.Decoder
	// open are the requests whose body is not whole yet, by stream.
	open map[uint32]string
	path string
	ends bool
}

func (s *h2) frame(kind, flags byte, stream uint32, payload string) {
	n := len(payload)
	s.conn.out = append(s.conn.out, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	s.conn.out = binary.BigEndian.AppendUint32(s.conn.out, stream)
	s.conn.out = append(s.conn.out, payload...)
}

func (s *h2) flush() error {
	if len(s.conn.out) == 0 {
		return nil
	}
	s.conn.file.SetWriteDeadline(time.Now().Add(h2WriteTime))
	_, err := s.conn.file.Write(s.conn.out)
	s.conn.out = s.conn.out[:0]
	return err
}

// read returns the next frame; false ends the connection.
func (s *h2) read() (kind, flags byte, stream uint32, payload []byte, ok bool) {
	var h [h2FrameHeader]byte
	if _, err := io.ReadFull(s.conn.r, h[:]); err != nil {
		return 0, 0, 0, nil, false
	}
	n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	if n > h2MaxFrame {
		return 0, 0, 0, nil, false
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(s.conn.r, payload); err != nil {
		return 0, 0, 0, nil, false
	}
	return h[3], h[4], binary.BigEndian.Uint32(h[5:]) & 0x7fffffff, payload, true
}

// step handles one frame; false ends the connection.
func (s *h2) step() bool {
	kind, flags, stream, payload, ok := s.read()
	if !ok {
		return false
	}
	switch kind {
	case h2Headers:
		return s.headers(flags, stream, payload)
	case h2Data:
		if len(payload) > 0 {
			// The connection's window only: a stream's is larger than any request here.
			s.frame(h2WindowUpdate, 0, 0, string(binary.BigEndian.AppendUint32(nil, uint32(len(payload)))))
		}
		path, waiting := s.open[stream]
		if waiting && flags&h2EndStream != 0 {
			delete(s.open, stream)
			s.answer(stream, path)
		}
	case h2Settings:
		if flags&h2Ack == 0 {
			s.frame(h2Settings, h2Ack, 0, "")
		}
	case h2Ping:
		if flags&h2Ack == 0 {
			if len(payload) != 8 {
				return false
			}
			s.frame(h2Ping, h2Ack, 0, string(payload))
		}
	case h2RSTStream:
		delete(s.open, stream)
	case h2Continuation:
		return false // outside a header block
	}
	// PRIORITY, WINDOW_UPDATE, GOAWAY and what is not known change nothing.
	return true
}

// headers reads a header block to its end and answers what needs no body.
func (s *h2) headers(flags byte, stream uint32, payload []byte) bool {
	if stream == 0 {
		return false
	}
	if flags&h2Padded != 0 {
		if len(payload) < 1 || int(payload[0]) > len(payload)-1 {
			return false
		}
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	if flags&h2Priority != 0 {
		if len(payload) < 5 {
			return false
		}
		payload = payload[5:]
	}
	end := flags&h2EndStream != 0
	s.path = ""
	total := 0
	for {
		if total += len(payload); total > h2MaxHeaders {
			return false
		}
		if _, err := s.decoder.Write(payload); err != nil {
			return false
		}
		if flags&h2EndHeaders != 0 {
			break
		}
		kind, next, of, more, ok := s.read()
		if !ok || kind != h2Continuation || of != stream {
			return false
		}
		flags, payload = next, more
	}
	if s.decoder.Close() != nil {
		return false
	}
	unary := s.path == pathHealth || s.path == pathShutdown
	switch {
	case end, !unary:
		// What never ends of its own is refused before its body.
		s.answer(stream, s.path)
	case len(s.open) >= h2MaxStreams:
		return false
	default:
		s.open[stream] = s.path
	}
	return true
}

func (s *h2) answer(stream uint32, path string) {
	message := ""
	switch path {
	case pathHealth:
		message = "\x08\x01" // status: SERVING
	case pathShutdown:
		s.ends = true
	default:
		s.frame(h2Headers, h2EndHeaders|h2EndStream, stream, blockUnimplemented)
		return
	}
	s.frame(h2Headers, h2EndHeaders, stream, blockHead)
	s.frame(h2Data, 0, stream, string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))))+message)
	s.frame(h2Headers, h2EndHeaders|h2EndStream, stream, blockOK)
}
