package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// ErrNotFound is [Get]'s answer where there is no record.
var ErrNotFound = errors.New("no such record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Put stores v as JSON under key, sealed by a checksum over both.
func Put(b *bbolt.Bucket, key []byte, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode the record %q: %w", key, err)
	}
	return b.Put(key, append(binary.BigEndian.AppendUint32(nil, checksum(key, text)), text...))
}

// Get reads the record under key into v. The error is [ErrNotFound], or names a
// record that is damaged.
func Get(b *bbolt.Bucket, key []byte, v any) error {
	raw := b.Get(key)
	if raw == nil {
		return ErrNotFound
	}
	if len(raw) < 4 || binary.BigEndian.Uint32(raw) != checksum(key, raw[4:]) {
		return fmt.Errorf("the record %q is damaged: its checksum does not match", key)
	}
	if err := json.Unmarshal(raw[4:], v); err != nil {
		return fmt.Errorf("the record %q is damaged: %w", key, err)
	}
	return nil
}

func checksum(key, text []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, text)
}
