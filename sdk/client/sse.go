package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxRecord bounds a record of a stream, all its lines together.
const maxRecord = 8 << 20

// sseRecord is one event of a text/event-stream. id is "" where it had none:
// unlike a browser, each record speaks for itself.
type sseRecord struct {
	id, event string
	data      []byte
}

// sseReader reads the records of a stream. Lines end in LF or CRLF.
type sseReader struct {
	r    *bufio.Reader
	line []byte
}

func newSSEReader(r io.Reader) *sseReader {
	return &sseReader{r: bufio.NewReaderSize(r, 32<<10)}
}

// next returns the next record that holds anything; comments and unknown fields
// are passed over. A record that the end of the stream cut is dropped, and the
// error is io.EOF as at a clean end. One over maxRecord is ErrProtocol.
func (s *sseReader) next() (sseRecord, error) {
	var rec sseRecord
	some, hasData, left := false, false, maxRecord
	for {
		line, err := s.readLine(left)
		if err != nil {
			return sseRecord{}, err
		}
		left -= len(line)
		if len(line) == 0 {
			if some {
				return rec, nil
			}
			left = maxRecord
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			rec.id, some = string(value), true
		case "event":
			rec.event, some = string(value), true
		case "data":
			if hasData {
				rec.data = append(rec.data, '\n')
			}
			rec.data, some, hasData = append(rec.data, value...), true, true
		case "":
			// A comment is no part of a record: it must not add up over a quiet night.
			left += len(line)
		}
	}
}

// readLine returns a line without its end, valid until the next call.
func (s *sseReader) readLine(max int) ([]byte, error) {
	s.line = s.line[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		s.line = append(s.line, part...)
		if len(s.line) > max+2 {
			return nil, fmt.Errorf("%w: a record has more than %d bytes", ErrProtocol, maxRecord)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return nil, err
		default:
			line := s.line[:len(s.line)-1]
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
	}
}
