package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/crypto/argon2"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

var (
	bucketKeys = []byte("keys")
	// keyRing is the keyring that counts, keyNext the one that a rotation of the key
	// file will put in its place.
	keyRing = []byte("ring")
	keyNext = []byte("next")
)

// kdf says how an unlock key is made of what the source gives.
type kdf struct {
	// Name is hkdf for keys, argon2id for passphrases.
	Name string `json:"name"`
	Salt []byte `json:"salt"`
	// Time, MemoryKiB and Threads are argon2id's.
	Time      uint32 `json:"time,omitempty"`
	MemoryKiB uint32 `json:"memory_kib,omitempty"`
	Threads   uint8  `json:"threads,omitempty"`
}

// newKDF is for a new unlock key. A passphrase costs who guesses it 0.2 s and
// 64 MiB (security.md 7).
func newKDF(source string) kdf {
	if source != SourcePassphrase {
		return kdf{Name: "hkdf", Salt: random(keySize)}
	}
	return kdf{Name: "argon2id", Salt: random(keySize), Time: 3, MemoryKiB: 64 << 10, Threads: 4}
}

// most an argon2id of a store may ask for: what is stored is not believed.
const (
	maxTime      = 64
	maxMemoryKiB = 1 << 20
)

func (k kdf) key(secret []byte) ([]byte, error) {
	switch {
	case k.Name == "hkdf":
		return derive(secret, k.Salt, "solo vault unlock")
	case k.Name == "argon2id" && k.Time >= 1 && k.Time <= maxTime && k.MemoryKiB >= 8 && k.MemoryKiB <= maxMemoryKiB && k.Threads >= 1:
		return argon2.IDKey(secret, k.Salt, k.Time, k.MemoryKiB, k.Threads, keySize), nil
	}
	return nil, fmt.Errorf("the vault's keyring is sealed in a way that this version does not know: %.40q", k.Name)
}

// ringRecord is a keyring at rest. Check tells a wrong key from a damaged seal.
type ringRecord struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	KDF    kdf    `json:"kdf"`
	Check  []byte `json:"check"`
	Sealed []byte `json:"sealed"`
}

// ring is the keyring in memory.
type ring struct {
	// Terms are the keys that wrap data keys, by number; Current is the one that new
	// ones are wrapped under. More than one is there only during a rotation.
	Terms   map[uint32][]byte `json:"terms"`
	Current uint32            `json:"current"`
	// Root is what other keys are derived from; it never changes.
	Root []byte `json:"root"`
}

func newRing() *ring {
	return &ring{Terms: map[uint32][]byte{1: random(keySize)}, Current: 1, Root: random(keySize)}
}

// with returns a copy with one term more, which is the current one.
func (r *ring) with(key []byte) *ring {
	out := &ring{Terms: map[uint32][]byte{r.Current + 1: key}, Current: r.Current + 1, Root: r.Root}
	for n, k := range r.Terms {
		out.Terms[n] = k
	}
	return out
}

// only returns a copy without the terms of the past.
func (r *ring) only() *ring {
	return &ring{Terms: map[uint32][]byte{r.Current: r.Terms[r.Current]}, Current: r.Current, Root: r.Root}
}

func (r *ring) rotating() bool { return len(r.Terms) > 1 }

func check(unlock []byte, id string) []byte {
	mac := hmac.New(sha256.New, unlock)
	mac.Write(bound("check", id))
	return mac.Sum(nil)
}

// sealRing makes the record of a keyring.
func sealRing(r *ring, id, source string, k kdf, unlock []byte) (*ringRecord, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	sealed, err := seal(unlock, text, bound("ring", id))
	if err != nil {
		return nil, err
	}
	return &ringRecord{ID: id, Source: source, KDF: k, Check: check(unlock, id), Sealed: sealed}, nil
}

// errWrongKey is an unlock key that is another's.
var errWrongKey = errors.New("the key is not the one of this vault")

// open makes the keyring of its record.
func (rec *ringRecord) open(unlock []byte) (*ring, error) {
	if !hmac.Equal(rec.Check, check(unlock, rec.ID)) {
		return nil, errWrongKey
	}
	text, err := unseal(unlock, rec.Sealed, bound("ring", rec.ID))
	if err != nil {
		return nil, errors.New("the key is right, and the vault's keyring is damaged: restore its store from a backup")
	}
	defer clear(text)
	var r ring
	if err := json.Unmarshal(text, &r); err != nil || len(r.Terms[r.Current]) != keySize || len(r.Root) != keySize {
		return nil, errors.New("the key is right, and the vault's keyring is not understood: a newer solod may have written it")
	}
	return &r, nil
}

func loadRing(tx *store.Tx, name []byte) (*ringRecord, error) {
	var rec ringRecord
	err := store.Get(tx.Bucket(bucketKeys), name, &rec)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &rec, err
}

// callerKey makes a key of a caller's encryption_key. It is cheaper than a
// passphrase's, for callers may send many, and dearer than a hash: such a key may be
// a word.
func callerKey(secret, salt []byte) []byte {
	callers <- struct{}{}
	defer func() { <-callers }()
	return argon2.IDKey(secret, salt, 2, 19<<10, 1, keySize)
}

// callers bounds how much memory they take at once.
var callers = make(chan struct{}, runtime.NumCPU())

// Value is a secret in memory. It prints as [redacted] in every format.
type Value = solo.Sensitive
