package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

const (
	format     = 1
	headerSize = 1 + 8 + 8 + 1 + 1 + 2 + 4
	hashSize   = sha256.Size
	// MaxPayload bounds an event's payload as JSON, in bytes.
	MaxPayload = 64 << 10
)

// record is a stored event, taken apart but not decoded.
type record struct {
	body      []byte // all but the hash
	hash      []byte
	at        int64
	causation uint64
	kind      string
	tenant    string
	subject   string
	payload   []byte
}

// encode makes the stored form of an event that follows prev.
func encode(id uint64, at time.Time, e *solo.Event, prev []byte) (raw, hash []byte, err error) {
	payload := []byte("{}")
	if len(e.Payload) > 0 {
		if payload, err = json.Marshal(e.Payload); err != nil {
			return nil, nil, fmt.Errorf("cannot encode the payload of %s: %w", e.Type, err)
		}
	}
	switch {
	case e.Type == "" || len(e.Type) > 255 || len(e.TenantID) > 255 || len(e.Subject) > 65535:
		return nil, nil, fmt.Errorf("cannot store an event of type %.40q: a name is missing or too long", e.Type)
	case len(payload) > MaxPayload:
		return nil, nil, fmt.Errorf("cannot store an event of type %s: its payload has %d bytes, at most %d are allowed", e.Type, len(payload), MaxPayload)
	case e.TenantID == "" && e.Subject != solo.SubjectSystem && !strings.HasPrefix(e.Subject, solo.SubjectTree+"/"):
		return nil, nil, fmt.Errorf("cannot store an event of type %s without a tenant", e.Type)
	}
	raw = make([]byte, 0, headerSize+len(e.Type)+len(e.TenantID)+len(e.Subject)+len(payload)+hashSize)
	raw = append(raw, format)
	raw = binary.BigEndian.AppendUint64(raw, uint64(at.UnixNano()))
	var cause uint64
	if e.CausationID != nil {
		cause = *e.CausationID
	}
	raw = binary.BigEndian.AppendUint64(raw, cause)
	raw = append(raw, byte(len(e.Type)), byte(len(e.TenantID)))
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(e.Subject)))
	raw = binary.BigEndian.AppendUint32(raw, uint32(len(payload)))
	raw = append(raw, e.Type...)
	raw = append(raw, e.TenantID...)
	raw = append(raw, e.Subject...)
	raw = append(raw, payload...)
	hash = chain(prev, id, raw)
	return append(raw, hash...), hash, nil
}

func chain(prev []byte, id uint64, body []byte) []byte {
	h := sha256.New()
	h.Write(prev)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], id)
	h.Write(n[:])
	h.Write(body)
	return h.Sum(nil)
}

// parse takes a stored record apart; every length is checked before it is used.
// What it returns shares the bytes of raw.
func parse(id uint64, raw []byte) (record, error) {
	bad := func(why string) (record, error) {
		return record{}, fmt.Errorf("event %d is damaged: %s", id, why)
	}
	if len(raw) < headerSize+hashSize {
		return bad("it is too short")
	}
	if raw[0] != format {
		return bad(fmt.Sprintf("its format is %d", raw[0]))
	}
	r := record{
		body: raw[:len(raw)-hashSize], hash: raw[len(raw)-hashSize:],
		at: int64(binary.BigEndian.Uint64(raw[1:])), causation: binary.BigEndian.Uint64(raw[9:]),
	}
	lengths := [4]int{int(raw[17]), int(raw[18]), int(binary.BigEndian.Uint16(raw[19:])), int(binary.BigEndian.Uint32(raw[21:]))}
	rest := r.body[headerSize:]
	if lengths[3] > MaxPayload || lengths[0]+lengths[1]+lengths[2]+lengths[3] != len(rest) {
		return bad("its lengths do not add up")
	}
	next := func(n int) []byte {
		part := rest[:n]
		rest = rest[n:]
		return part
	}
	r.kind, r.tenant, r.subject = string(next(lengths[0])), string(next(lengths[1])), string(next(lengths[2]))
	r.payload = next(lengths[3])
	return r, nil
}

// event decodes the record.
func (r record) event(id uint64) (solo.Event, error) {
	e := solo.Event{
		ID: id, Timestamp: time.Unix(0, r.at).UTC(), TenantID: r.tenant, Type: solo.EventType(r.kind),
		Subject: r.subject, Hash: hex.EncodeToString(r.hash), Payload: map[string]any{},
	}
	if r.causation > 0 {
		cause := r.causation
		e.CausationID = &cause
	}
	dec := json.NewDecoder(bytes.NewReader(r.payload))
	dec.UseNumber()
	if err := dec.Decode(&e.Payload); err != nil {
		return e, fmt.Errorf("event %d is damaged: %w", id, err)
	}
	return e, nil
}

// service is the id in a subject of the form services/{id}, "" in others.
func service(subject string) string {
	id, ok := strings.CutPrefix(subject, "services/")
	if !ok || strings.Contains(id, "/") {
		return ""
	}
	return id
}
