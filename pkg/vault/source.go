package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/solo-run/solo/pkg/store"
)

// Where an unlock key comes from (contract 3, vault.key_source).
const (
	SourceFile       = "file"
	SourceCredential = "credential"
	SourcePassphrase = "passphrase"
)

// CredentialName is the file in $CREDENTIALS_DIRECTORY that LoadCredential= of the
// unit has to fill.
const CredentialName = "solo-vault-key"

// Source says where the unlock key comes from.
type Source struct {
	Kind string
	// File is the path of the key file, of [SourceFile].
	File string
}

// A key file holds 32 random bytes as hex, and an end of line. A credential may
// hold anything of minSecret to maxSecret bytes.
const (
	minSecret = 16
	maxSecret = 4096
)

// read returns what the unlock key is derived from; fs.ErrNotExist where there is
// no file.
func (s Source) read() ([]byte, error) {
	path := s.File
	if s.Kind == SourceCredential {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, errors.New("vault.key_source is credential, and there is no $CREDENTIALS_DIRECTORY: give the unit LoadCredential=" + CredentialName + ":PATH")
		}
		path = filepath.Join(dir, CredentialName)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key: %w", err)
	}
	if s.Kind == SourceFile {
		if err := checkKeyFile(path, info); err != nil {
			return nil, err
		}
	}
	if !info.Mode().IsRegular() || info.Size() < minSecret || info.Size() > maxSecret {
		return nil, fmt.Errorf("the vault's key %s must be a file of %d to %d bytes", path, minSecret, maxSecret)
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("cannot read the vault's key: %w", err)
	}
	return bytes.TrimRight(text, "\r\n"), nil
}

func checkKeyFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the vault's key file %s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("the vault's key file %s can be read by others (mode %04o): who has read it has every secret; make a new one by `solo vault rotate` after chmod 0600", path, mode)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("the vault's key file %s belongs to the user %d, and not to the daemon's: chown it", path, st.Uid)
	}
	return nil
}

// writeKeyFile makes a new key file, whole or not at all; one that is there is not
// touched. The daemon has the lock of its data directory: nobody else makes one.
func writeKeyFile(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot make the vault's key file: %w", errors.Join(err, fmt.Errorf("%s is there", path)))
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the vault's key file: %w", err)
	}
	_, err = f.WriteString(hex.EncodeToString(random(keySize)) + "\n")
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = store.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("cannot make the vault's key file: %w", err)
	}
	return nil
}
