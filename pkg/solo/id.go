package solo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// MaxID is the longest tenant or service id, in bytes.
const MaxID = 128

// Key names one service of one tenant. It is never joined into a string that
// anything parses: paths, cgroups and sockets use [Key.Digest] (lesson D11).
type Key struct {
	Tenant  string
	Service string
}

// Digest is 32 hex digits that stand for the pair: two keys share one only by a
// SHA-256 collision, since each part goes in with its length.
func (k Key) Digest() string {
	h := sha256.New()
	var n [8]byte
	for _, part := range []string{k.Tenant, k.Service} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// CheckID reports why s is not a tenant or service id: 1 to [MaxID] bytes of
// [A-Za-z0-9_-], the first not a dash.
func CheckID(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("must not be empty")
	case len(s) > MaxID:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), MaxID)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case c == '-' && i > 0:
		default:
			return fmt.Errorf("may hold only A-Z, a-z, 0-9, _ and, after the first, -; byte %d is %q", i, c)
		}
	}
	return nil
}
