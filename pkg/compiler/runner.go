package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Runner runs the toolchain and the tests, confined.
type Runner interface {
	// Scratch makes a directory that commands can work in and nobody else finds,
	// and a func that removes it.
	Scratch() (dir string, remove func() error, err error)
	// Run runs one command to its end. When ctx ends, so does the command with all
	// that it forked, and the error is ctx's.
	Run(ctx context.Context, cmd Command) (Result, error)
}

// Command is one command of a build.
type Command struct {
	Path      string
	Args, Env []string
	Dir       string
	// Stdout and Stderr are bounded by who gives them.
	Stdout, Stderr io.Writer
	MemoryBytes    int64
	PIDs           int
	// Writable are the directories that the command may write to. Cache, one more,
	// is shown to it at CacheAt.
	Writable       []string
	Cache, CacheAt string
}

// Result is how a command ended. ExitCode is -1 where a signal ended it.
type Result struct {
	ExitCode int
	Signal   string
	// OOM: the kernel has killed the command, or something that it forked, for want
	// of memory.
	OOM                   bool
	PeakBytes, LimitBytes int64
}

// DirectRunner runs commands as they are: in their own process group and without
// any bound but ctx. It is for hosts and tests that have no sandbox.
type DirectRunner struct {
	// Dir holds the scratch directories.
	Dir string
}

// Scratch makes a directory below Dir.
func (r DirectRunner) Scratch() (string, func() error, error) {
	dir, err := os.MkdirTemp(r.Dir, "build-")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for a build: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// Run runs the command.
func (r DirectRunner) Run(ctx context.Context, c Command) (Result, error) {
	if c.Cache != "" {
		if err := ShowCache(c.Cache, c.CacheAt); err != nil {
			return Result{}, err
		}
	}
	cmd := exec.Command(c.Path, c.Args[1:]...)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.Args, c.Env, c.Dir, c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, err
	}
	res := Result{ExitCode: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		res.Signal = unix.SignalName(ws.Signal())
	}
	return res, nil
}

// showing is held by ShowCache: a build and its tests run side by side.
var showing sync.Mutex

// ShowCache puts a link to the cache in the place of the empty directory at, for a
// [Runner] without mounts. It may be called again.
func ShowCache(cache, at string) error {
	showing.Lock()
	defer showing.Unlock()
	if target, err := os.Readlink(at); err == nil && target == cache {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(cache, at)
}

// bounded keeps the first max bytes of what is written, and calls full once when
// there is more.
type bounded struct {
	max  int
	buf  []byte
	over bool
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.max - len(b.buf)
	b.buf = append(b.buf, p[:min(room, len(p))]...)
	if len(p) > room && !b.over {
		b.over = true
		b.full()
	}
	return len(p), nil
}

// copyArtifact copies what a build has made, which may be anything under that
// name, into a new file and its sum: not through a link, only a regular file, and
// bounded.
func copyArtifact(from string, to *os.File, sum io.Writer, limit int64) error {
	fd, err := unix.Open(from, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot open the binary: %w", err)
	}
	src := os.NewFile(uintptr(fd), filepath.Base(from))
	defer src.Close()
	info, err := src.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the binary: %w", err)
	case !info.Mode().IsRegular():
		return errors.New("the build left no binary")
	case info.Size() > limit:
		return errTooLarge
	}
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(src, limit+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot copy the binary: %w", err)
	case n > limit:
		return errTooLarge
	}
	return nil
}

var errTooLarge = errors.New("the binary is too large")
