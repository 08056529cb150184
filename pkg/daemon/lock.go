package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/solo"

	"github.com/solo-run/solo/pkg/store"
)

// lock is the right to a data directory. The kernel gives it back when the
// daemon ends, however it does.
type lock struct{ file *os.File }

// lockTime is how long a daemon waits for a lock that is taken.
const lockTime = time.Second

// lockFile also tells a data directory from any other.
const lockFile = "lock"

// takeLock makes the data directory, 0700, and takes it. The error of a second
// daemon names the directory and the first one's pid.
func takeLock(dir string) (*lock, error) {
	if err := makeDataDir(dir); err != nil {
		return nil, errDataDir(dir, err)
	}
	if err := checkDataDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, errDataDir(dir, err)
	}
	// A solod that was killed in the middle of a fork leaves a child that holds the
	// lock until it has come to its exec.
	for end := time.Now().Add(lockTime); ; time.Sleep(lockTime / 100) {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
	}
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

// makeDataDir makes the data directory, and its name durable: a file that was
// synced is lost all the same when a power cut takes a directory above it.
func makeDataDir(dir string) error {
	above := filepath.Dir(dir)
	if _, err := os.Lstat(above); err != nil && above != dir {
		if err := makeDataDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// One that was there may have been made a moment ago by somebody else.
	return store.SyncDir(above)
}

// checkDataDir refuses a directory that is not ours alone, and makes a new one so.
func checkDataDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return errDataDir(dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("cannot use the data directory %s: it is not a directory", dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("cannot use the data directory %s: it belongs to uid %d and solod runs as uid %d; run it as that user, or chown -R the directory", dir, st.Uid, os.Geteuid())
	}
	_, err = os.Lstat(filepath.Join(dir, lockFile))
	used := err == nil
	switch mode := info.Mode().Perm(); {
	case mode == 0o700:
	case used:
		// Who could read it, or write to it, meanwhile is not for us to guess.
		return fmt.Errorf("cannot use the data directory %s: its mode is %04o, so that others may reach what is in it; see who has, then chmod 700 it", dir, mode)
	default:
		if err := os.Chmod(dir, 0o700); err != nil {
			return errDataDir(dir, err)
		}
	}
	if used {
		return nil
	}
	for _, name := range []string{"artifacts", "logs", "sources", "sandbox"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("cannot use the data directory %s: it holds %q and was never solod's; name an empty directory by solo.data_dir", dir, name)
		}
	}
	return nil
}

// errDataDir says what to do about a directory that cannot be written to.
func errDataDir(dir string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, syscall.EROFS):
		advice = "; its file system is mounted read-only: mount it read-write, or name another directory by solo.data_dir"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		advice = "; give it to the user that solod runs as, or name another directory by solo.data_dir"
	case errors.Is(err, syscall.ENOSPC):
		advice = "; make room on its file system"
	}
	return fmt.Errorf("cannot use the data directory %s: %w%s", dir, err, advice)
}

// leastFree is the room that a data directory needs to take anything at all.
const leastFree = 1 << 20

// checkDisk returns why nothing more can be written to the data directory.
func checkDisk(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return solo.Errorf(solo.CodeStorageUnavailable, "the data directory is gone").Because(err)
	}
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return solo.Errorf(solo.CodeStorageUnavailable, "the data directory's file system is read-only")
	case fs.Bavail*uint64(fs.Bsize) < leastFree:
		return solo.Errorf(solo.CodeStorageUnavailable, "the disk of the data directory is full")
	}
	return nil
}
