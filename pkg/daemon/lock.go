package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lock is the right to a data directory. The kernel gives it back when the
// daemon ends, however it does.
type lock struct{ file *os.File }

// takeLock makes the data directory, 0700, and takes it. The error of a second
// daemon names the directory and the first one's pid.
func takeLock(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use the data directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("cannot use the data directory %s: it belongs to uid %d and solod runs as uid %d; run it as that user, or chown -R the directory", dir, st.Uid, os.Geteuid())
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep the data directory private: %w", err)
	}
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of the data directory: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer file.Close()
		holder := "another process"
		text := make([]byte, 32)
		n, _ := file.ReadAt(text, 0)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
			holder = fmt.Sprintf("solod with pid %d", pid)
		}
		return nil, fmt.Errorf("cannot use the data directory %s: %s has it", dir, holder)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock the data directory %s: %w", dir, err)
	}
	if err = file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot write the lock of the data directory: %w", err)
	}
	return &lock{file}, nil
}

func (l *lock) Close() error { return l.file.Close() }
