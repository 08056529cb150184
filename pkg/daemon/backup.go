package daemon

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/vault"
)

// A backup is a tar: a manifest first, then the files of a data directory, and
// the SHA-256 of each at the end. The build cache is left out: it is built again.
const (
	backupManifest  = "manifest.json"
	backupChecksums = "checksums"
	backupFormat    = 1
	// storeFile is the event log and all state, in a backup and by default in a data
	// directory.
	storeFile = "events"
	// keysFile is the keyring of the vault, and keyFile, where the operator wants it in
	// the backup too, the key that opens it.
	keysFile = "vault"
	keyFile  = "vault.key"
)

// Manifest says what a backup holds.
type Manifest struct {
	Format    int       `json:"format"`
	Version   string    `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	// Events is the proof of the log that the backup holds.
	Events solo.VerifyReport `json:"events"`
	// Files is how many there are, Bytes what they hold.
	Files int `json:"files"`
	// WithKey tells that the vault's key file is among them: who has the backup then has
	// every secret.
	WithKey bool  `json:"with_key"`
	Bytes   int64 `json:"bytes"`
}

// backupTrees are the directories of a data directory that are copied. Their
// files are never changed once they are there, but for logs, which grow.
var backupTrees = []string{"artifacts", "logs", "sources"}

// backup writes a consistent copy of the running daemon. What the copy of the
// store names is held by hard links until it is written.
func (d *daemon) backup(ctx context.Context, withKey bool, w io.Writer) error {
	if withKey && d.cfg.Vault.KeySource != vault.SourceFile {
		return solo.InvalidFields(solo.Field{Field: "with_key", Message: "the vault's key is no file of solod's: keep it where it comes from"})
	}
	dir := d.cfg.Solo.DataDir
	staging, err := os.MkdirTemp(dir, stagingPrefix)
	if err != nil {
		return solo.StorageError("a backup cannot be made", err)
	}
	defer os.RemoveAll(staging)
	var files []backupFile
	// No rotation in between: the keyring has to open the secrets that are copied.
	err = d.vault.Hold(func() error {
		return d.engine.Hold(func() error {
			err := errors.Join(d.db.Snapshot(filepath.Join(staging, storeFile)), d.keys.Snapshot(filepath.Join(staging, keysFile)))
			if err == nil && withKey {
				err = copyKey(d.cfg.Vault.KeyFile, filepath.Join(staging, keyFile))
			}
			if err != nil {
				return err
			}
			files, err = link(dir, staging)
			return err
		})
	})
	if err != nil {
		return solo.StorageError("a backup cannot be made", err)
	}
	failpoint.Hit("backup.linked")
	report, err := eventlog.VerifyFile(ctx, filepath.Join(staging, storeFile))
	if err != nil {
		return err
	}
	top := []string{storeFile, keysFile}
	if withKey {
		top = append(top, keyFile)
	}
	for _, name := range top {
		info, err := os.Stat(filepath.Join(staging, name))
		if err != nil {
			return err
		}
		files = append(files, backupFile{name, info.Size()})
	}
	m := Manifest{Format: backupFormat, Version: Version, CreatedAt: time.Now().UTC(), Events: report, Files: len(files), WithKey: withKey}
	for _, f := range files {
		m.Bytes += f.size
	}
	return writeBackup(ctx, w, staging, m, files)
}

func copyKey(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	defer clear(text)
	return os.WriteFile(to, text, 0o600)
}

// stagingPrefix begins the directories of backups under way; those of a daemon
// that was killed are removed at the next start.
const stagingPrefix = ".backup-"

func removeStaging(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, stagingPrefix+"*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("cannot remove a backup that was not finished: %w", err)
	}
	return nil
}

type backupFile struct {
	// name is relative, with slashes.
	name string
	size int64
}

// link makes the trees anew below staging, each file a hard link.
func link(dir, staging string) ([]backupFile, error) {
	var files []backupFile
	for _, tree := range backupTrees {
		err := filepath.WalkDir(filepath.Join(dir, tree), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			if e.IsDir() {
				return os.MkdirAll(filepath.Join(staging, rel), 0o700)
			}
			// What is being written has a name that begins with a dot.
			if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
				return nil
			}
			if err := os.Link(path, filepath.Join(staging, rel)); err != nil {
				return err
			}
			info, err := os.Stat(filepath.Join(staging, rel))
			if err != nil {
				return err
			}
			files = append(files, backupFile{filepath.ToSlash(rel), info.Size()})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func writeBackup(ctx context.Context, w io.Writer, staging string, m Manifest, files []backupFile) error {
	out := tar.NewWriter(w)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeEntry(out, backupManifest, int64(len(text)), bytes.NewReader(text)); err != nil {
		return err
	}
	var sums strings.Builder
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		sum, err := writeFileEntry(out, staging, f)
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, f.name)
	}
	if err := writeEntry(out, backupChecksums, int64(sums.Len()), strings.NewReader(sums.String())); err != nil {
		return err
	}
	return out.Close()
}

func writeEntry(out *tar.Writer, name string, size int64, from io.Reader) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	if _, err := io.CopyN(out, from, size); err != nil {
		return fmt.Errorf("cannot write %s to the backup: %w", name, err)
	}
	return nil
}

func writeFileEntry(out *tar.Writer, staging string, f backupFile) (sum string, err error) {
	file, err := os.Open(filepath.Join(staging, filepath.FromSlash(f.name)))
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	// A log that has grown since is copied as it was.
	if err := writeEntry(out, f.name, f.size, io.TeeReader(file, h)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Bounds of a backup that is read: its own words, and what one file may hold.
const (
	maxManifest  = 1 << 20
	maxChecksums = 256 << 20
	maxBackup    = 1 << 40
)

// VerifyBackup reads a backup to its end and checks every file against its sum.
func VerifyBackup(r io.Reader) (*Manifest, error) {
	return readBackup(r, func(string, io.Reader) error { return nil })
}

// readBackup gives each file to take and then proves that all were whole.
func readBackup(r io.Reader, take func(name string, content io.Reader) error) (*Manifest, error) {
	in := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	var m Manifest
	head, err := in.Next()
	if err != nil || head.Name != backupManifest || head.Size > maxManifest {
		return nil, errors.New("this is not a backup of Solo: it does not begin with a manifest")
	}
	text, err := io.ReadAll(io.LimitReader(in, maxManifest))
	if err != nil {
		return nil, errCutOff(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("the manifest of the backup is damaged: %w", err)
	}
	if m.Format != backupFormat {
		return nil, fmt.Errorf("the backup has format %d, and this solo knows %d: use the one that made it", m.Format, backupFormat)
	}
	got := map[string]string{}
	for {
		head, err := in.Next()
		if err != nil {
			return nil, errCutOff(err)
		}
		if head.Name == backupChecksums {
			break
		}
		if err := checkEntry(head, got); err != nil {
			return nil, err
		}
		h := sha256.New()
		content := io.TeeReader(in, h)
		if err := take(head.Name, content); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errCutOff(err)
			}
			return nil, err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return nil, errCutOff(err)
		}
		got[head.Name] = hex.EncodeToString(h.Sum(nil))
	}
	sums, err := io.ReadAll(io.LimitReader(in, maxChecksums))
	if err != nil {
		return nil, errCutOff(err)
	}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if got[name] != sum {
			return nil, fmt.Errorf("the backup is damaged: %s is not what was written", name)
		}
		delete(got, name)
	}
	for name := range got {
		return nil, fmt.Errorf("the backup is damaged: %s has no checksum", name)
	}
	return &m, nil
}

func errCutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the backup is cut off: its end is missing")
	}
	return fmt.Errorf("the backup cannot be read: %w", err)
}

// checkEntry lets through only what a backup of ours holds: regular files below
// the known trees.
func checkEntry(head *tar.Header, seen map[string]string) error {
	name := head.Name
	known := name == storeFile || name == keysFile || name == keyFile
	for _, tree := range backupTrees {
		known = known || strings.HasPrefix(name, tree+"/")
	}
	_, double := seen[name]
	switch {
	case head.Typeflag != tar.TypeReg, !filepath.IsLocal(name), strings.Contains(name, "\\"), !known, double, head.Size > maxBackup:
		return fmt.Errorf("the backup holds %.200q, which no backup of Solo does", name)
	}
	return nil
}

// Restore makes a data directory of a backup, in a directory that is empty or not
// there yet. It proves the log before it says that it is done; if anything is
// wrong, nothing is left.
func Restore(ctx context.Context, r io.Reader, dir string) (_ *Manifest, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("cannot restore into %s: it is not empty; name a new directory", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	// Beside it, so that a rename makes it whole at once.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".solo-restore-")
	if err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	defer os.RemoveAll(tmp)
	m, err := readBackup(r, func(name string, content io.Reader) error {
		return restoreFile(filepath.Join(tmp, filepath.FromSlash(name)), name, content)
	})
	if err != nil {
		return nil, err
	}
	report, err := eventlog.VerifyFile(ctx, filepath.Join(tmp, storeFile))
	if err != nil {
		return nil, err
	}
	if report.OK != m.Events.OK || report.Head != m.Events.Head {
		return nil, errors.New("the log in the backup is not the one that its manifest names")
	}
	// The lock makes it a data directory.
	if err := restoreFile(filepath.Join(tmp, lockFile), lockFile, strings.NewReader("")); err != nil {
		return nil, err
	}
	if err := syncTree(tmp); err != nil {
		return nil, err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	if err := store.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	return m, nil
}

func restoreFile(path, name string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot restore %s: %w", name, err)
	}
	mode := fs.FileMode(0o600)
	if strings.HasPrefix(name, "artifacts/") && !strings.HasSuffix(name, ".sum") {
		mode = 0o555
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("cannot restore %s: %w", name, err)
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return fmt.Errorf("cannot restore %s: %w", name, err)
	}
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return fmt.Errorf("cannot restore %s: %w", name, err)
	}
	return nil
}

// syncTree makes the names below a directory durable.
func syncTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	sort.Sort(sort.Reverse(sort.StringSlice(dirs)))
	for _, path := range dirs {
		if err := store.SyncDir(path); err != nil {
			return err
		}
	}
	return nil
}
