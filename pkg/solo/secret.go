package solo

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"
	"unicode/utf8"
)

// Bounds of secrets (contract 4d).
const (
	MinSecretBytes = 1
	MaxSecretBytes = 1 << 20
	// MaxSecretBody holds the largest value as base64 or escaped JSON.
	MaxSecretBody = 7 << 20
	// MaxEncryptionKey bounds a caller's own key, in bytes.
	MaxEncryptionKey = 1024
)

// redacted is what a [Sensitive] prints as.
const redacted = "[redacted]"

// Sensitive is bytes that must not be seen by accident: it prints as [redacted]
// with every verb, in JSON and in logs. In a request it is a JSON string.
type Sensitive []byte

// String redacts.
func (Sensitive) String() string { return redacted }

// GoString redacts.
func (Sensitive) GoString() string { return redacted }

// Format redacts whatever the verb.
func (Sensitive) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue redacts.
func (Sensitive) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts.
func (Sensitive) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// UnmarshalJSON takes a JSON string.
func (s *Sensitive) UnmarshalJSON(text []byte) error {
	var plain string
	if err := json.Unmarshal(text, &plain); err != nil {
		return err
	}
	*s = []byte(plain)
	return nil
}

// SecretRequest stores a secret; Value or ValueBase64, not both.
type SecretRequest struct {
	Key           *string    `json:"key"`
	Value         *Sensitive `json:"value"`
	ValueBase64   *Sensitive `json:"value_base64"`
	EncryptionKey *Sensitive `json:"encryption_key"`
}

// Plain checks the request and returns the value, and the caller's own key, nil for
// none.
func (r *SecretRequest) Plain() (name string, value, key Sensitive, err error) {
	var fields []Field
	bad := func(field, format string, args ...any) {
		fields = append(fields, Field{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if r.Key == nil {
		bad("key", "is required")
	} else if err := CheckID(*r.Key); err != nil {
		bad("key", "%s", err)
	} else {
		name = *r.Key
	}
	field := "value"
	switch {
	case r.Value != nil && r.ValueBase64 != nil:
		bad("value_base64", "is given beside value: one of them is the secret")
	case r.Value != nil:
		value = *r.Value
	case r.ValueBase64 != nil:
		field = "value_base64"
		text := make([]byte, base64.StdEncoding.DecodedLen(len(*r.ValueBase64)))
		n, err := base64.StdEncoding.Strict().Decode(text, *r.ValueBase64)
		if err != nil {
			bad(field, "is not base64 with its padding")
		}
		value = text[:n]
	default:
		bad("value", "is required, or value_base64")
	}
	if len(fields) == 0 && len(value) < MinSecretBytes {
		bad(field, "is empty: a secret has %d to %d bytes", MinSecretBytes, MaxSecretBytes)
	}
	if r.EncryptionKey != nil {
		if key = *r.EncryptionKey; len(key) == 0 || len(key) > MaxEncryptionKey {
			bad("encryption_key", "must have 1 to %d bytes", MaxEncryptionKey)
		}
	}
	if len(fields) > 0 {
		return "", nil, nil, InvalidFields(fields...)
	}
	if len(value) > MaxSecretBytes {
		return "", nil, nil, Errorf(CodeTooLarge, "the secret has more than the %d bytes that are allowed", MaxSecretBytes).With("limit", MaxSecretBytes)
	}
	return name, value, key, nil
}

// Secret is what may be known of a secret without its value.
type Secret struct {
	Key       string    `json:"key"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	// Locked is set where a caller's own key is needed too.
	Locked bool `json:"locked"`
}

// SecretList is a page of the names of secrets.
type SecretList struct {
	Secrets []string `json:"secrets"`
	Total   int      `json:"total"`
	Limit   int      `json:"limit"`
	Offset  int      `json:"offset"`
}

// RevealRequest asks for the value.
type RevealRequest struct {
	EncryptionKey *Sensitive `json:"encryption_key"`
}

// RevealedSecret is a secret with its value: Value where the bytes are UTF-8, else
// ValueBase64. It is for the wire and nothing else.
type RevealedSecret struct {
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 *string `json:"value_base64,omitempty"`
	Version     int     `json:"version"`
}

// Reveal makes the answer that holds a value.
func Reveal(s Secret, value Sensitive) *RevealedSecret {
	out := &RevealedSecret{Key: s.Key, Version: s.Version}
	if utf8.Valid(value) {
		text := string(value)
		out.Value = &text
	} else {
		text := base64.StdEncoding.EncodeToString(value)
		out.ValueBase64 = &text
	}
	return out
}

// RevokedSecret is a secret that is gone.
type RevokedSecret struct {
	Key     string `json:"key"`
	Version int    `json:"version"`
	Status  string `json:"status"`
}

// UnlockRequest gives the passphrase of the vault.
type UnlockRequest struct {
	Passphrase *Sensitive `json:"passphrase"`
}

// RotateRequest changes the master key; Passphrase is the new one where the source
// is a passphrase, and none keeps the old one.
type RotateRequest struct {
	Passphrase *Sensitive `json:"passphrase"`
}

// VaultStatus is how the vault is.
type VaultStatus struct {
	// Status is unlocked, locked or rotating.
	Status string `json:"status"`
	Source string `json:"key_source"`
	// Term counts the rotations, from 1; 0 while the vault is locked.
	Term int `json:"term"`
	// Rewrapped is how many secrets the rotation that was asked for has wrapped anew.
	Rewrapped int `json:"rewrapped"`
}
