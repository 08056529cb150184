package vault

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// hit is where a rotation can be cut off, for tests.
var hit = failpoint.Hit

// Config is what a [Vault] works with.
type Config struct {
	// State is the store of the secrets, Keys that of the keyring.
	State, Keys *store.DB
	Source      Source
	// Warn is told of a key file that was made, and of what was mended.
	Warn func(msg string, args ...any)
}

// Vault keeps secrets. It is safe for use by many at once.
type Vault struct {
	cfg Config

	// changing is held by who unlocks or rotates.
	changing sync.Mutex
	// changed is closed, and another one made, with each secret that changes.
	changed chan struct{}
	mu      sync.RWMutex
	// ring is nil while the vault is locked; unlock and id are of its record.
	ring   *ring
	unlock []byte
	record *ringRecord
}

// Open opens the vault, and unlocks it unless its source is a passphrase. A vault
// without a keyring gets one, and with [SourceFile] a key file.
func Open(cfg Config) (*Vault, error) {
	v := &Vault{cfg: cfg, changed: make(chan struct{})}
	err := cfg.Keys.Update(func(tx *store.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketKeys)
		return err
	})
	if err == nil {
		err = cfg.State.Update(prepareSecrets)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the vault: %w", err)
	}
	rec, next, known, err := v.stored()
	if err != nil {
		return nil, err
	}
	if rec == nil && known != "" {
		return nil, fmt.Errorf("the vault's store is empty, and there are secrets that it had the keys of (vault %s): put it back from a backup", known)
	}
	if rec != nil && rec.Source != cfg.Source.Kind {
		return nil, fmt.Errorf("vault.key_source is %q, and this vault is sealed by a %s: set it back", cfg.Source.Kind, rec.Source)
	}
	if cfg.Source.Kind == SourcePassphrase {
		v.record = rec
		return v, nil
	}
	secret, err := v.cfg.Source.read()
	switch {
	case errors.Is(err, fs.ErrNotExist) && cfg.Source.Kind == SourceFile && rec != nil:
		return nil, fmt.Errorf("the vault's key file %s is gone: put it back, since nothing else opens the secrets that are stored; to give them up, move the data directory's vault and events stores away", cfg.Source.File)
	case errors.Is(err, fs.ErrNotExist) && cfg.Source.Kind == SourceFile:
		if err := writeKeyFile(cfg.Source.File); err != nil {
			return nil, err
		}
		cfg.Warn("a key for the vault was made; it is the only copy, and without it nobody can read the secrets: keep one elsewhere", "file", cfg.Source.File)
		secret, err = v.cfg.Source.read()
	}
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	if rec == nil {
		return v, v.create(secret)
	}
	if err := v.openWith(secret, rec, next); err != nil {
		return nil, err
	}
	return v, nil
}

// stored reads the keyrings, and which vault the secrets know.
func (v *Vault) stored() (rec, next *ringRecord, known string, err error) {
	err = v.cfg.Keys.View(func(tx *store.Tx) (err error) {
		if rec, err = loadRing(tx, keyRing); err != nil {
			return err
		}
		next, err = loadRing(tx, keyNext)
		return err
	})
	if err == nil {
		err = v.cfg.State.View(func(tx *store.Tx) error {
			known = string(tx.Bucket(bucketMeta).Get(keyVaultID))
			return nil
		})
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("cannot read the vault's keyring: %w", err)
	}
	if rec != nil && known != "" && rec.ID != known {
		return nil, nil, "", fmt.Errorf("the vault's store is another daemon's (vault %s, the secrets are of vault %s): put the right one back", rec.ID, known)
	}
	return rec, next, known, nil
}

// create makes the first keyring.
func (v *Vault) create(secret []byte) error {
	k := newKDF(v.cfg.Source.Kind)
	unlock, err := k.key(secret)
	if err != nil {
		return err
	}
	r := newRing()
	rec, err := sealRing(r, hex.EncodeToString(random(8)), v.cfg.Source.Kind, k, unlock)
	if err != nil {
		return err
	}
	if err := v.putRing(keyRing, rec, nil); err != nil {
		return err
	}
	v.set(r, rec, unlock)
	return v.introduce(rec.ID)
}

// introduce lets the secrets know whose they are.
func (v *Vault) introduce(id string) error {
	return v.cfg.State.Update(func(tx *store.Tx) error {
		b := tx.Bucket(bucketMeta)
		if string(b.Get(keyVaultID)) == id {
			return nil
		}
		return b.Put(keyVaultID, []byte(id))
	})
}

// openWith unlocks with what the source gave, and settles a rotation of the key
// file that was cut off.
func (v *Vault) openWith(secret []byte, rec, next *ringRecord) error {
	unlock, err := rec.KDF.key(secret)
	if err != nil {
		return err
	}
	r, err := rec.open(unlock)
	if next != nil {
		var nerr error
		rec, r, unlock, nerr = v.settle(secret, rec, next, r, unlock, err)
		if nerr != nil {
			return nerr
		}
		err = nil
	}
	if errors.Is(err, errWrongKey) {
		return v.wrongKey()
	}
	if err != nil {
		return err
	}
	v.set(r, rec, unlock)
	return v.introduce(rec.ID)
}

func (v *Vault) wrongKey() error {
	switch v.cfg.Source.Kind {
	case SourceFile:
		return fmt.Errorf("the key in %s is not the one of this vault: put the right file back", v.cfg.Source.File)
	case SourceCredential:
		return fmt.Errorf("the credential %s is not the key of this vault: give the right one", CredentialName)
	}
	return solo.Errorf(solo.CodePermissionDenied, "the passphrase is not the one of this vault")
}

func (v *Vault) set(r *ring, rec *ringRecord, unlock []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ring, v.record, v.unlock = r, rec, unlock
}

// current is the keyring, or the refusal of a vault that is locked.
func (v *Vault) current() (*ring, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.ring == nil {
		return nil, solo.Errorf(solo.CodeUnavailable, "the vault is locked until the operator gives its passphrase (solo vault unlock)").With("vault", "locked")
	}
	return v.ring, nil
}

// Status says how the vault is.
func (v *Vault) Status() solo.VaultStatus {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := solo.VaultStatus{Status: "locked", Source: v.cfg.Source.Kind}
	if v.ring != nil {
		out.Status, out.Term = "unlocked", int(v.ring.Current)
		if v.ring.rotating() {
			out.Status = "rotating"
		}
	}
	return out
}

// Bounds of a passphrase, in bytes.
const (
	minPassphrase = 8
	maxPassphrase = 1024
)

func checkPassphrase(p []byte) error {
	if len(p) < minPassphrase || len(p) > maxPassphrase {
		return solo.InvalidFields(solo.Field{Field: "passphrase", Message: fmt.Sprintf("must have %d to %d bytes", minPassphrase, maxPassphrase)})
	}
	return nil
}

// Unlock opens a vault whose source is a passphrase; the first one that is given
// becomes the vault's. To unlock what is unlocked takes the right one and does
// nothing.
func (v *Vault) Unlock(passphrase []byte) error {
	if v.cfg.Source.Kind != SourcePassphrase {
		return solo.Errorf(solo.CodeConflict, "the vault is unlocked by its %s, and not by a passphrase (vault.key_source)", v.cfg.Source.Kind)
	}
	if err := checkPassphrase(passphrase); err != nil {
		return err
	}
	v.changing.Lock()
	defer v.changing.Unlock()
	if v.record == nil {
		return v.create(passphrase)
	}
	return v.openWith(passphrase, v.record, nil)
}

// Derive makes a key of 32 bytes for a purpose of another room, and a tenant, ""
// for none. It is the same over rotations and restarts. The error is unavailable
// while the vault is locked.
func (v *Vault) Derive(purpose, tenant string) ([]byte, error) {
	r, err := v.current()
	if err != nil {
		return nil, err
	}
	return derive(r.Root, nil, string(bound("derive", purpose, tenant)))
}

// Changed returns a channel that is closed once a secret changes. Ask for it before
// looking at the secret.
func (v *Vault) Changed() <-chan struct{} {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.changed
}

func (v *Vault) tell() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Hold runs f while no key changes.
func (v *Vault) Hold(f func() error) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	return f()
}

// putRing stores a keyring under a name, and takes another name away.
func (v *Vault) putRing(name []byte, rec *ringRecord, without []byte) error {
	err := v.cfg.Keys.Update(func(tx *store.Tx) error {
		b := tx.Bucket(bucketKeys)
		if without != nil {
			if err := b.Delete(without); err != nil {
				return err
			}
		}
		return store.Put(b, name, rec)
	})
	if err != nil {
		return fmt.Errorf("cannot store the vault's keyring: %w", err)
	}
	return nil
}

func nextFile(path string) string { return path + ".next" }

// settle ends a change of the key file that was cut off. Before the rename the old
// file opens the ring and the new file the next one; after it the file that is
// there opens the next one only.
func (v *Vault) settle(secret []byte, rec, next *ringRecord, r *ring, unlock []byte, opened error) (*ringRecord, *ring, []byte, error) {
	if opened == nil {
		// The old key still counts: its ring has the new term too, and the file that was
		// being made is given up.
		if err := os.Remove(nextFile(v.cfg.Source.File)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil, fmt.Errorf("cannot give up a rotation that was cut off: %w", err)
		}
		v.cfg.Warn("a rotation of the vault's key file was cut off; the old file goes on")
		return rec, r, unlock, v.putRing(keyRing, rec, keyNext)
	}
	if !errors.Is(opened, errWrongKey) {
		return nil, nil, nil, opened
	}
	unlock, err := next.KDF.key(secret)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err = next.open(unlock)
	if errors.Is(err, errWrongKey) {
		return nil, nil, nil, v.wrongKey()
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return next, r, unlock, v.putRing(keyRing, next, keyNext)
}

// Rotate makes a new term, and with [SourceFile] a new key file, wraps every data
// key anew and forgets the old terms. done is called in the transaction that wraps
// the last ones, once for each rotation. A new passphrase takes the old one's
// place; nil keeps it.
func (v *Vault) Rotate(passphrase []byte, done func(tx *store.Tx, term uint32) error) (solo.VaultStatus, error) {
	if passphrase != nil {
		if v.cfg.Source.Kind != SourcePassphrase {
			return solo.VaultStatus{}, solo.InvalidFields(solo.Field{Field: "passphrase", Message: "is for a vault whose key_source is passphrase"})
		}
		if err := checkPassphrase(passphrase); err != nil {
			return solo.VaultStatus{}, err
		}
	}
	if !v.changing.TryLock() {
		return solo.VaultStatus{}, solo.Errorf(solo.CodeConflict, "the vault is being rotated or unlocked")
	}
	defer v.changing.Unlock()
	r, err := v.current()
	if err != nil {
		return solo.VaultStatus{}, err
	}
	if !r.rotating() {
		if err := v.newTerm(r, passphrase); err != nil {
			return solo.VaultStatus{}, err
		}
	}
	n, err := v.finish(done)
	out := v.Status()
	out.Rewrapped = n
	return out, err
}

// Resume ends a rotation that was cut off, where there was one.
func (v *Vault) Resume(done func(tx *store.Tx, term uint32) error) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	r, err := v.current()
	if err != nil || !r.rotating() {
		return nil
	}
	n, err := v.finish(done)
	if err == nil {
		v.cfg.Warn("a rotation of the vault that was cut off is done", "rewrapped", n)
	}
	return err
}

// newTerm puts a term into the keyring, sealed by a new key where there is one.
func (v *Vault) newTerm(r *ring, passphrase []byte) error {
	grown := r.with(random(keySize))
	v.mu.RLock()
	rec, unlock := v.record, v.unlock
	v.mu.RUnlock()
	// Whatever happens next, the key that opens now opens the new term too.
	same, err := sealRing(grown, rec.ID, rec.Source, rec.KDF, unlock)
	if err != nil {
		return err
	}
	switch {
	case v.cfg.Source.Kind == SourceFile:
		return v.newFile(grown, same, unlock)
	case passphrase != nil:
		k := newKDF(SourcePassphrase)
		if unlock, err = k.key(passphrase); err != nil {
			return err
		}
		if same, err = sealRing(grown, rec.ID, rec.Source, k, unlock); err != nil {
			return err
		}
	}
	if err := v.putRing(keyRing, same, nil); err != nil {
		return err
	}
	v.set(grown, same, unlock)
	return nil
}

// newFile changes the key file: the ring is stored under both keys before the
// rename, and under the new one alone after it.
func (v *Vault) newFile(grown *ring, same *ringRecord, unlock []byte) error {
	next := Source{Kind: SourceFile, File: nextFile(v.cfg.Source.File)}
	if err := os.Remove(next.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot rotate the vault's key: %w", err)
	}
	if err := writeKeyFile(next.File); err != nil {
		return err
	}
	secret, err := next.read()
	if err != nil {
		return err
	}
	defer clear(secret)
	k := newKDF(SourceFile)
	newUnlock, err := k.key(secret)
	if err != nil {
		return err
	}
	rec, err := sealRing(grown, same.ID, same.Source, k, newUnlock)
	if err != nil {
		return err
	}
	err = v.cfg.Keys.Update(func(tx *store.Tx) error {
		b := tx.Bucket(bucketKeys)
		if err := store.Put(b, keyRing, same); err != nil {
			return err
		}
		return store.Put(b, keyNext, rec)
	})
	if err != nil {
		return fmt.Errorf("cannot store the vault's keyring: %w", err)
	}
	v.set(grown, same, unlock)
	hit("rotate.sealed")
	if err := os.Rename(next.File, v.cfg.Source.File); err != nil {
		return fmt.Errorf("cannot put the vault's new key file in its place: %w", err)
	}
	if err := store.SyncDir(filepath.Dir(v.cfg.Source.File)); err != nil {
		return fmt.Errorf("cannot put the vault's new key file in its place: %w", err)
	}
	hit("rotate.renamed")
	v.set(grown, rec, newUnlock)
	return v.putRing(keyRing, rec, keyNext)
}

// finish wraps what is under older terms anew and forgets those.
func (v *Vault) finish(done func(tx *store.Tx, term uint32) error) (rewrapped int, err error) {
	r, err := v.current()
	if err != nil {
		return 0, err
	}
	for from, more := (*at)(nil), true; more; more = from != nil {
		hit("rotate.rewrap")
		var n int
		n, from, err = v.rewrap(r, from, done)
		rewrapped += n
		if err != nil {
			return rewrapped, err
		}
	}
	hit("rotate.rewrapped")
	v.mu.RLock()
	rec, unlock := v.record, v.unlock
	v.mu.RUnlock()
	only := r.only()
	sealed, err := sealRing(only, rec.ID, rec.Source, rec.KDF, unlock)
	if err != nil {
		return rewrapped, err
	}
	if err := v.putRing(keyRing, sealed, nil); err != nil {
		return rewrapped, err
	}
	v.set(only, sealed, unlock)
	return rewrapped, nil
}
