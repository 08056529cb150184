package vault_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/vault"
)

// place is where a vault's files are.
type place struct {
	dir    string
	source vault.Source
	warned []string
	open   []*store.DB
}

func newPlace(t testing.TB, kind string) *place {
	dir := t.TempDir()
	p := &place{dir: dir, source: vault.Source{Kind: kind, File: filepath.Join(dir, "vault.key")}}
	t.Cleanup(p.close)
	return p
}

func (p *place) close() {
	for _, db := range p.open {
		db.Close()
	}
	p.open = nil
}

// vault opens it anew.
func (p *place) vault(t testing.TB) (*store.DB, *vault.Vault, error) {
	t.Helper()
	p.close()
	for _, name := range []string{"events", "vault"} {
		db, err := store.Open(filepath.Join(p.dir, name), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p.open = append(p.open, db)
	}
	v, err := vault.Open(vault.Config{State: p.open[0], Keys: p.open[1], Source: p.source, Warn: func(msg string, _ ...any) {
		p.warned = append(p.warned, msg)
	}})
	return p.open[0], v, err
}

func (p *place) must(t testing.TB) (*store.DB, *vault.Vault) {
	t.Helper()
	db, v, err := p.vault(t)
	if err != nil {
		t.Fatal(err)
	}
	return db, v
}

func put(t testing.TB, db *store.DB, v *vault.Vault, tenant, name, value, caller string) (out solo.Secret) {
	t.Helper()
	var key vault.Value
	if caller != "" {
		key = vault.Value(caller)
	}
	l, err := vault.Lock(tenant, name, vault.Value(value), key)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *store.Tx) (err error) {
		out, err = v.Put(tx, l)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func get(db *store.DB, v *vault.Vault, tenant, name, caller string) (string, error) {
	var sealed vault.Sealed
	err := db.View(func(tx *store.Tx) (err error) {
		sealed, err = v.Get(tx, tenant, name)
		return err
	})
	if err != nil {
		return "", err
	}
	var key vault.Value
	if caller != "" {
		key = vault.Value(caller)
	}
	value, err := sealed.Open(key)
	return string(value), err
}

func want(t testing.TB, db *store.DB, v *vault.Vault, tenant, name, value string) {
	t.Helper()
	if got, err := get(db, v, tenant, name, ""); err != nil || got != value {
		t.Fatalf("%s/%s is %q, %v; want %q", tenant, name, got, err, value)
	}
}

const canary = "canary-7f3a9c-value"

// Confidential: neither store holds a value, a data key or a caller's key, and
// nothing prints one.
func TestConfidential(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	put(t, db, v, "t", "plain", canary, "")
	put(t, db, v, "t", "locked", canary, "caller-key-51b2")
	want(t, db, v, "t", "plain", canary)
	p.close()
	for _, name := range []string{"events", "vault", "vault.key"} {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{canary, "caller-key-51b2"} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s holds %q", name, secret)
			}
		}
	}
	value := vault.Value(canary)
	out, err := json.Marshal(map[string]any{"v": value})
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "v", value)
	for _, text := range []string{fmt.Sprint(value), fmt.Sprintf("%s %q %x %v %+v %#v %d", value, value, value, value, value, value, value), string(out), logged.String()} {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) || strings.Contains(text, "99 97 110") {
			t.Errorf("it prints as %s", text)
		}
	}
}

// Integrity: a byte that is changed anywhere in what is sealed is found.
func TestIntegrity(t *testing.T) {
	db, v := newPlace(t, vault.SourceFile).must(t)
	put(t, db, v, "t", "a", canary, "")
	flip := func(b []byte, i int) { b[i] ^= 1 << (i % 8) }
	var sealed, wrapped, salt int
	if err := db.Update(func(tx *store.Tx) error {
		return vault.Change(tx, "t", "a", func(r *vault.Record) { sealed, wrapped, salt = len(r.Sealed), len(r.Wrapped), len(r.Salt) })
	}); err != nil {
		t.Fatal(err)
	}
	if sealed != 12+len(canary)+16 || wrapped != 12+32+16 {
		t.Fatalf("%d bytes are sealed, %d wrapped: the nonce is 12 bytes and the tag 16", sealed, wrapped)
	}
	change := func(f func(r *vault.Record)) {
		t.Helper()
		if err := db.Update(func(tx *store.Tx) error { return vault.Change(tx, "t", "a", f) }); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sealed {
		change(func(r *vault.Record) { flip(r.Sealed, i) })
		if got, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
			t.Fatalf("with byte %d of the value changed it is %q, %v", i, got, err)
		}
		change(func(r *vault.Record) { flip(r.Sealed, i) })
	}
	for i := range wrapped {
		change(func(r *vault.Record) { flip(r.Wrapped, i) })
		if _, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
			t.Fatalf("with byte %d of the data key changed: %v", i, err)
		}
		change(func(r *vault.Record) { flip(r.Wrapped, i) })
	}
	for i := range salt {
		change(func(r *vault.Record) { flip(r.Salt, i) })
		if _, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
			t.Fatalf("with byte %d of the salt changed: %v", i, err)
		}
		change(func(r *vault.Record) { flip(r.Salt, i) })
	}
	want(t, db, v, "t", "a", canary)
	// What is cut off is no crash, and can be thrown away.
	change(func(r *vault.Record) { r.Sealed, r.Wrapped, r.Salt = nil, nil, nil })
	if _, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
		t.Fatalf("an empty record: %v", err)
	}
	if err := db.Update(func(tx *store.Tx) error { _, err := v.Revoke(tx, "t", "a"); return err }); err != nil {
		t.Fatal(err)
	}
}

// Move: a record in another's place does not open there.
func TestMove(t *testing.T) {
	db, v := newPlace(t, vault.SourceFile).must(t)
	for _, key := range [][2]string{{"t", "a"}, {"t", "b"}, {"u", "a"}, {"ta", "b"}, {"t", "ab"}} {
		put(t, db, v, key[0], key[1], "value of "+key[0]+"/"+key[1], "")
	}
	for _, move := range [][4]string{{"t", "a", "t", "b"}, {"t", "a", "u", "a"}, {"t", "ab", "ta", "b"}} {
		if err := db.Update(func(tx *store.Tx) error { return vault.Copy(tx, move[0], move[1], move[2], move[3]) }); err != nil {
			t.Fatal(err)
		}
		if got, err := get(db, v, move[2], move[3], ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
			t.Errorf("%s/%s in the place of %s/%s is %q, %v", move[0], move[1], move[2], move[3], got, err)
		}
	}
	want(t, db, v, "t", "a", "value of t/a")
}

// Replay: an old version's ciphertext does not pass as the new one.
func TestReplay(t *testing.T) {
	db, v := newPlace(t, vault.SourceFile).must(t)
	put(t, db, v, "t", "a", "old", "")
	var old vault.Record
	change := func(f func(r *vault.Record)) {
		t.Helper()
		if err := db.Update(func(tx *store.Tx) error { return vault.Change(tx, "t", "a", f) }); err != nil {
			t.Fatal(err)
		}
	}
	change(func(r *vault.Record) { old = *r })
	if s := put(t, db, v, "t", "a", "new", ""); s.Version != 2 {
		t.Fatalf("the second value is version %d", s.Version)
	}
	want(t, db, v, "t", "a", "new")
	change(func(r *vault.Record) { r.Sealed, r.Wrapped, r.Salt = old.Sealed, old.Wrapped, old.Salt })
	if got, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
		t.Errorf("the old ciphertext as version 2 is %q, %v", got, err)
	}
	// Half of it does not pass either.
	put(t, db, v, "t", "a", "newer", "")
	change(func(r *vault.Record) { r.Sealed = old.Sealed })
	if got, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeStorageUnavailable {
		t.Errorf("the old value under the new data key is %q, %v", got, err)
	}
}

func TestValuesOfEverySize(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	large := make([]byte, solo.MaxSecretBytes)
	rand.Read(large)
	for name, value := range map[string]string{"one": "\x00", "every": string(every), "newline": "a\n", "large": string(large)} {
		put(t, db, v, "t", name, value, "")
	}
	db, v = p.must(t)
	want(t, db, v, "t", "one", "\x00")
	want(t, db, v, "t", "every", string(every))
	want(t, db, v, "t", "newline", "a\n")
	want(t, db, v, "t", "large", string(large))
}

func TestACallersKeyIsASecondLock(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	if s := put(t, db, v, "t", "a", "value", "mine"); !s.Locked {
		t.Fatal("it is not locked")
	}
	db, v = p.must(t)
	if got, err := get(db, v, "t", "a", "mine"); err != nil || got != "value" {
		t.Fatalf("with the key it is %q, %v", got, err)
	}
	for name, key := range map[string]string{"wrong": "mina", "missing": "", "longer": "mine "} {
		if _, err := get(db, v, "t", "a", key); solo.CodeOf(err) != solo.CodePermissionDenied {
			t.Errorf("with a %s key: %v", name, err)
		}
	}
	put(t, db, v, "t", "b", "value", "")
	if _, err := get(db, v, "t", "b", "mine"); solo.CodeOf(err) != solo.CodePermissionDenied {
		t.Errorf("a key for what is not locked: %v", err)
	}
}

func TestListAndRevoke(t *testing.T) {
	db, v := newPlace(t, vault.SourceFile).must(t)
	for _, name := range []string{"c", "a", "b"} {
		put(t, db, v, "t", name, "x", "")
	}
	put(t, db, v, "u", "other", "x", "")
	list := func(limit, offset int, allow func(string) bool) string {
		var names []string
		var total int
		if err := db.View(func(tx *store.Tx) error { names, total = v.List(tx, "t", limit, offset, allow); return nil }); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(names, total)
	}
	all := func(string) bool { return true }
	for _, tc := range []struct{ got, want string }{
		{list(10, 0, all), "[a b c] 3"}, {list(1, 1, all), "[b] 3"}, {list(10, 3, all), "[] 3"},
		{list(10, 0, func(n string) bool { return n != "b" }), "[a c] 2"},
	} {
		if tc.got != tc.want {
			t.Errorf("the list is %s, want %s", tc.got, tc.want)
		}
	}
	revoke := func(name string) error {
		return db.Update(func(tx *store.Tx) error { _, err := v.Revoke(tx, "t", name); return err })
	}
	if err := revoke("b"); err != nil {
		t.Fatal(err)
	}
	if err := revoke("b"); solo.CodeOf(err) != solo.CodeNotFound {
		t.Errorf("a second revoke: %v", err)
	}
	if _, err := get(db, v, "t", "b", ""); solo.CodeOf(err) != solo.CodeNotFound {
		t.Errorf("what is revoked: %v", err)
	}
	if err := db.Update(func(tx *store.Tx) error { return errors.Join(v.EraseTenant(tx, "t"), v.EraseTenant(tx, "nobody")) }); err != nil {
		t.Fatal(err)
	}
	if got := list(10, 0, all); got != "[] 0" {
		t.Errorf("after the end of the tenant the list is %s", got)
	}
	want(t, db, v, "u", "other", "x")
}

func TestTheKeyFile(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	if len(p.warned) != 1 || !strings.Contains(p.warned[0], "only copy") {
		t.Errorf("the first start warns %q", p.warned)
	}
	put(t, db, v, "t", "a", canary, "")
	info, err := os.Stat(p.source.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key file is %v, %v", info.Mode(), err)
	}
	key, err := os.ReadFile(p.source.File)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name, words string, spoil func() error) {
		t.Helper()
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want words %q", name, err, words)
		}
		os.RemoveAll(p.source.File)
		if err := os.WriteFile(p.source.File, key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused("readable by others", "mode 0640", func() error { return os.Chmod(p.source.File, 0o640) })
	refused("gone", "is gone: put it back", func() error { return os.Remove(p.source.File) })
	refused("another's", "not the one of this vault", func() error {
		return os.WriteFile(p.source.File, []byte(strings.Repeat("0", 64)+"\n"), 0o600)
	})
	refused("empty", "16 to 4096 bytes", func() error { return os.Truncate(p.source.File, 0) })
	refused("a directory", "no regular file", func() error { return errors.Join(os.Remove(p.source.File), os.Mkdir(p.source.File, 0o700)) })
	refused("a link", "cannot read", func() error {
		return errors.Join(os.Rename(p.source.File, p.source.File+".real"), os.Symlink(p.source.File+".real", p.source.File))
	})
	if os.Geteuid() == 0 {
		refused("of another user", "belongs to the user 12345", func() error { return os.Chown(p.source.File, 12345, 0) })
	}
	p.source.Kind = vault.SourcePassphrase
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "set it back") {
		t.Errorf("another source: %v", err)
	}
	p.source.Kind = vault.SourceFile
	db, v = p.must(t)
	want(t, db, v, "t", "a", canary)
	if len(p.warned) != 1 {
		t.Errorf("later starts warn: %q", p.warned)
	}
}

// A keyring that is lost is not replaced by a new one, and another daemon's is not
// taken for it.
func TestALostKeyring(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	put(t, db, v, "t", "a", canary, "")
	other := newPlace(t, vault.SourceFile)
	other.must(t)
	p.close()
	other.close()
	keys, theirs := filepath.Join(p.dir, "vault"), filepath.Join(other.dir, "vault")
	for _, suffix := range []string{"", ".initialised"} {
		if err := os.Rename(keys+suffix, keys+suffix+".kept"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "the vault's store is empty") {
		t.Errorf("without the keyring: %v", err)
	}
	p.close()
	for _, suffix := range []string{"", ".initialised"} {
		if err := os.Rename(theirs+suffix, keys+suffix); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "another daemon's") {
		t.Errorf("another daemon's keyring: %v", err)
	}
	p.close()
	for _, suffix := range []string{"", ".initialised"} {
		if err := os.Rename(keys+suffix+".kept", keys+suffix); err != nil {
			t.Fatal(err)
		}
	}
	db, v = p.must(t)
	want(t, db, v, "t", "a", canary)
}

// Damage is not called a wrong key.
func TestADamagedKeyring(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	p.must(t)
	if err := vault.DamageRing(p.open[1]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "the key is right, and the vault's keyring is damaged") {
		t.Errorf("a damaged keyring: %v", err)
	}
}

func TestPassphrase(t *testing.T) {
	p := newPlace(t, vault.SourcePassphrase)
	db, v := p.must(t)
	l, err := vault.Lock("t", "a", vault.Value("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *store.Tx) error { _, err := v.Put(tx, l); return err }); solo.CodeOf(err) != solo.CodeUnavailable {
		t.Fatalf("a locked vault takes a secret: %v", err)
	}
	if _, err := v.Derive("p", "t"); solo.CodeOf(err) != solo.CodeUnavailable {
		t.Fatalf("a locked vault derives: %v", err)
	}
	if err := v.Unlock([]byte("short")); solo.CodeOf(err) != solo.CodeInvalidRequest {
		t.Fatalf("a short passphrase: %v", err)
	}
	if err := v.Unlock([]byte("correct horse")); err != nil {
		t.Fatal(err)
	}
	put(t, db, v, "t", "a", canary, "")
	db, v = p.must(t)
	if s := v.Status(); s.Status != "locked" || s.Term != 0 {
		t.Fatalf("after a restart it is %+v", s)
	}
	if _, err := get(db, v, "t", "a", ""); solo.CodeOf(err) != solo.CodeUnavailable {
		t.Fatalf("it reads: %v", err)
	}
	if err := v.Unlock([]byte("battery staple")); solo.CodeOf(err) != solo.CodePermissionDenied {
		t.Fatalf("a wrong passphrase: %v", err)
	}
	if err := v.Unlock([]byte("correct horse")); err != nil {
		t.Fatal(err)
	}
	want(t, db, v, "t", "a", canary)
	// A new one takes its place.
	if _, err := v.Rotate([]byte("battery staple"), told(nil)); err != nil {
		t.Fatal(err)
	}
	db, v = p.must(t)
	if err := v.Unlock([]byte("correct horse")); solo.CodeOf(err) != solo.CodePermissionDenied {
		t.Fatalf("the old passphrase: %v", err)
	}
	if err := v.Unlock([]byte("battery staple")); err != nil {
		t.Fatal(err)
	}
	want(t, db, v, "t", "a", canary)
}

func TestCredential(t *testing.T) {
	p := newPlace(t, vault.SourceCredential)
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "LoadCredential") {
		t.Fatalf("without credentials: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", p.dir)
	if err := os.WriteFile(filepath.Join(p.dir, vault.CredentialName), []byte("a credential of the machine\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	db, v := p.must(t)
	put(t, db, v, "t", "a", canary, "")
	db, v = p.must(t)
	want(t, db, v, "t", "a", canary)
	if err := v.Unlock([]byte("correct horse")); solo.CodeOf(err) != solo.CodeConflict {
		t.Errorf("a passphrase for it: %v", err)
	}
}

func told(terms *[]uint32) func(*store.Tx, uint32) error {
	return func(tx *store.Tx, term uint32) error {
		if terms != nil {
			tx.OnCommit(func() { *terms = append(*terms, term) })
		}
		return nil
	}
}

func TestRotate(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	const secrets = 600 // more than two batches
	for i := range secrets {
		put(t, db, v, fmt.Sprintf("t%d", i%7), fmt.Sprintf("s%d", i), fmt.Sprint("value ", i), "")
	}
	put(t, db, v, "t", "locked", canary, "mine")
	derived, err := v.Derive("capabilities", "t")
	if err != nil {
		t.Fatal(err)
	}
	oldKey, err := os.ReadFile(p.source.File)
	if err != nil {
		t.Fatal(err)
	}
	var terms []uint32
	status, err := v.Rotate(nil, told(&terms))
	if err != nil || status.Term != 2 || status.Rewrapped != secrets+1 || status.Status != "unlocked" || fmt.Sprint(terms) != "[2]" {
		t.Fatalf("the rotation is %+v, %v, told %v", status, err, terms)
	}
	newKey, err := os.ReadFile(p.source.File)
	if err != nil || bytes.Equal(newKey, oldKey) {
		t.Fatalf("the key file is the same, %v", err)
	}
	check := func() {
		t.Helper()
		for i := range secrets {
			want(t, db, v, fmt.Sprintf("t%d", i%7), fmt.Sprintf("s%d", i), fmt.Sprint("value ", i))
		}
		if got, err := get(db, v, "t", "locked", "mine"); err != nil || got != canary {
			t.Fatalf("what a caller has locked is %q, %v", got, err)
		}
		if again, err := v.Derive("capabilities", "t"); err != nil || !bytes.Equal(again, derived) {
			t.Fatalf("a derived key has changed, %v", err)
		}
	}
	check()
	db, v = p.must(t)
	check()
	if err := os.WriteFile(p.source.File, oldKey, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.vault(t); err == nil || !strings.Contains(err.Error(), "not the one of this vault") {
		t.Errorf("the old key file: %v", err)
	}
}

// A rotation that is cut off at any step loses nothing and goes on.
func TestARotationIsCutOff(t *testing.T) {
	for _, step := range []string{"rotate.sealed", "rotate.renamed", "rotate.rewrap", "rotate.rewrapped"} {
		t.Run(step, func(t *testing.T) {
			p := newPlace(t, vault.SourceFile)
			db, v := p.must(t)
			for i := range 300 {
				put(t, db, v, "t", fmt.Sprintf("s%d", i), fmt.Sprint("value ", i), "")
			}
			vault.CutOffAt(t, step)
			var terms []uint32
			func() {
				defer func() {
					if recover() == nil {
						t.Fatal("it was not cut off")
					}
				}()
				v.Rotate(nil, told(&terms))
			}()
			vault.GoOn()
			db, v = p.must(t)
			check := func() {
				t.Helper()
				for i := range 300 {
					want(t, db, v, "t", fmt.Sprintf("s%d", i), fmt.Sprint("value ", i))
				}
			}
			check()
			if err := v.Resume(told(&terms)); err != nil {
				t.Fatal(err)
			}
			if s := v.Status(); s.Status != "unlocked" || s.Term != 2 {
				t.Errorf("in the end it is %+v", s)
			}
			check()
			if fmt.Sprint(terms) != "[2]" {
				t.Errorf("the rotation was told %v", terms)
			}
			if _, err := os.Stat(p.source.File + ".next"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a key file is left over: %v", err)
			}
			db, v = p.must(t)
			check()
			if _, err := v.Rotate(nil, told(&terms)); err != nil || fmt.Sprint(terms) != "[2 3]" {
				t.Fatalf("the next rotation: %v, told %v", err, terms)
			}
			check()
		})
	}
}

// Secrets that are stored while a rotation runs are not lost with the old term.
func TestStoringDuringARotation(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	db, v := p.must(t)
	for i := range 600 {
		put(t, db, v, "t", fmt.Sprintf("s%d", i), "old", "")
	}
	done := make(chan error, 1)
	go func() {
		_, err := v.Rotate(nil, told(nil))
		done <- err
	}()
	n := 0
	for running := true; running; n++ {
		put(t, db, v, "t", fmt.Sprintf("s%d", n%600), "new", "")
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
	}
	db, v = p.must(t)
	for i := range 600 {
		value := "old"
		if i < n {
			value = "new"
		}
		want(t, db, v, "t", fmt.Sprintf("s%d", i), value)
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	_, v := newPlace(t, vault.SourceFile).must(t)
	seen := map[string]string{}
	for _, in := range [][2]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"a", "c"}, {"b", "a"}} {
		key, err := v.Derive(in[0], in[1])
		if err != nil || len(key) != 32 {
			t.Fatalf("%v: %d bytes, %v", in, len(key), err)
		}
		if other, ok := seen[string(key)]; ok {
			t.Errorf("%v has the key of %s", in, other)
		}
		seen[string(key)] = fmt.Sprint(in)
	}
}

// write makes the vault of TestUpgrade, once for each form that a release has had.
var write = flag.Bool("write", false, "write testdata/first")

// firstDerived is how a key that the vault of the first release derives begins.
const firstDerived = "e572e927"

// Upgrade: a vault of the first release opens in this one.
func TestUpgrade(t *testing.T) {
	p := newPlace(t, vault.SourceFile)
	first := filepath.Join("testdata", "first")
	files := []string{"events", "events.initialised", "vault", "vault.initialised", "vault.key"}
	if *write {
		db, v := p.must(t)
		put(t, db, v, "t", "plain", "a value of the first release", "")
		put(t, db, v, "t", "locked", "a locked value", "a caller's key")
		p.close()
		for _, name := range files {
			text, err := os.ReadFile(filepath.Join(p.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			// The stores are nearly empty.
			var packed bytes.Buffer
			w := gzip.NewWriter(&packed)
			if _, err := w.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Close(), os.WriteFile(filepath.Join(first, name+".gz"), packed.Bytes(), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range files {
		f, err := os.Open(filepath.Join(first, name+".gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(filepath.Join(p.dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	db, v := p.must(t)
	want(t, db, v, "t", "plain", "a value of the first release")
	if got, err := get(db, v, "t", "locked", "a caller's key"); err != nil || got != "a locked value" {
		t.Errorf("what a caller has locked is %q, %v", got, err)
	}
	key, err := v.Derive("capability", "t")
	if err != nil || fmt.Sprintf("%x", key[:4]) != firstDerived {
		t.Errorf("a derived key begins with %x, %v; want %s", key[:4], err, firstDerived)
	}
}

// Storing beside one durable write, and reading after the vault was unlocked.
func BenchmarkPut(b *testing.B) {
	db, v := newPlace(b, vault.SourceFile).must(b)
	l, err := vault.Lock("t", "a", vault.Value(strings.Repeat("x", 64)), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := db.Update(func(tx *store.Tx) error { _, err := v.Put(tx, l); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDurableWrite(b *testing.B) {
	db, v := newPlace(b, vault.SourceFile).must(b)
	put(b, db, v, "t", "a", strings.Repeat("x", 64), "")
	for b.Loop() {
		if err := db.Update(func(tx *store.Tx) error { return vault.Copy(tx, "t", "a", "t", "a") }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	db, v := newPlace(b, vault.SourceFile).must(b)
	put(b, db, v, "t", "a", strings.Repeat("x", 64), "")
	for b.Loop() {
		if _, err := get(db, v, "t", "a", ""); err != nil {
			b.Fatal(err)
		}
	}
}
