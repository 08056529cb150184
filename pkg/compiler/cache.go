package compiler

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
)

func (c *Compiler) path(digest string) string { return filepath.Join(c.cfg.Dir, digest) }

// Find returns the path of an artifact, which is whole: a regular file with the
// content that was stored. A file that was found whole is not read again until it
// changes: a restart must not wait for a hash.
func (c *Compiler) Find(digest string) (string, error) {
	if len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "" {
		return "", fmt.Errorf("cannot find the artifact %.80q: it is not a digest", digest)
	}
	path := c.path(digest)
	id, err := identify(path)
	if err != nil {
		return "", fmt.Errorf("cannot find the artifact %s: %w", digest, err)
	}
	if known, ok := c.whole.Load(digest); ok && known == id {
		return path, nil
	}
	want, err := os.ReadFile(path + ".sum")
	if err != nil {
		return "", fmt.Errorf("cannot find the artifact %s: %w", digest, err)
	}
	got, err := sum(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot find the artifact %s: %w", digest, err)
	case got != strings.TrimSpace(string(want)):
		return "", fmt.Errorf("the artifact %s is damaged: its content is not what was stored", digest)
	}
	c.whole.Store(digest, id)
	return path, nil
}

// fileID changes with each change of a file: whoever writes to one changes its
// ctime, and cannot set that back.
type fileID struct {
	dev, ino  uint64
	size      int64
	mtime     syscall.Timespec
	ctime     syscall.Timespec
	mode, uid uint32
}

func identify(path string) (fileID, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fileID{}, &os.PathError{Op: "open", Path: path, Err: errors.New("is not a regular file")}
	}
	return fileID{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim, st.Mode, st.Uid}, nil
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// store takes a built binary into the artifacts, whole and durable.
func (c *Compiler) store(digest, binary string) error {
	err := c.keep(digest, binary)
	switch {
	case errors.Is(err, errTooLarge):
		return verdict(&analysis{}, outcome{limit: "size"})
	case err != nil:
		return solo.StorageError("the artifact cannot be stored", err)
	}
	return nil
}

// keep gives the binary its name, and has it on its way to the disk when it
// returns: see [Compiler.Durable].
func (c *Compiler) keep(digest, binary string) (err error) {
	tmp, err := os.CreateTemp(c.cfg.Dir, ".new-*")
	if err != nil {
		return err
	}
	var content, total *os.File
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
			tmp.Close()
			content.Close()
			total.Close()
		}
	}()
	h := sha256.New()
	if err := copyArtifact(binary, tmp, h, maxArtifact); err != nil {
		return err
	}
	if err := tmp.Chmod(0o555); err != nil {
		return err
	}
	// A file that is open for writing cannot be executed; to bring it to the disk,
	// reading is enough.
	if err := tmp.Close(); err != nil {
		return err
	}
	if content, err = os.Open(tmp.Name()); err != nil {
		return err
	}
	// The sum is first: a binary without one is not there.
	if total, err = os.OpenFile(c.path(digest)+".sum", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	if _, err := total.WriteString(hex.EncodeToString(h.Sum(nil)) + "\n"); err != nil {
		return err
	}
	failpoint.Hit("artifact.summed")
	if err := os.Rename(tmp.Name(), c.path(digest)); err != nil {
		return err
	}
	failpoint.Hit("artifact.named")
	w := &writing{done: make(chan struct{})}
	c.writing.Store(digest, w)
	go func() {
		w.err = c.sync(content, total)
		if w.err != nil {
			// A disk that is full may say so only now.
			os.Remove(c.path(digest))
			os.Remove(c.path(digest) + ".sum")
		}
		c.writing.Delete(digest)
		close(w.done)
	}()
	return nil
}

// writing is an artifact on its way to the disk; err is set before done closes.
type writing struct {
	done chan struct{}
	err  error
}

func (c *Compiler) sync(content, total *os.File) error {
	defer content.Close()
	defer total.Close()
	if err := errors.Join(total.Sync(), content.Sync()); err != nil {
		return err
	}
	dir, err := os.Open(c.cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Durable returns once the artifact would be there after a power cut: a deploy
// starts its candidate meanwhile, and waits for this before it says that it runs.
func (c *Compiler) Durable(digest string) error {
	if w, ok := c.writing.Load(digest); ok {
		w := w.(*writing)
		<-w.done
		if w.err != nil {
			return solo.StorageError("the artifact cannot be stored", w.err)
		}
	}
	// One whose writing has failed before anybody asked is gone.
	if _, err := identify(c.path(digest)); err != nil {
		return solo.StorageError("the artifact cannot be stored", err)
	}
	return nil
}
