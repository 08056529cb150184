package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/sandbox"
)

// runner runs the compiler's commands in the sandbox.
type runner struct {
	host *sandbox.Host
	// bind tells whether the cache can be shown where a build can reach it; without
	// it the cache is in the run directory, and ends with the daemon.
	bind bool
	n    atomic.Uint64
}

// newRunner prepares the cache for the user of the builds.
func newRunner(host *sandbox.Host, cache string) (*runner, error) {
	r := &runner{host: host, bind: host.BuildUID() >= 0 && host.Layers()["mounts"].On}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the build cache: %w", err)
	}
	if uid := host.BuildUID(); uid >= 0 {
		if err := giveTree(cache, uid); err != nil {
			return nil, fmt.Errorf("cannot give the build cache to the user of the builds: %w", err)
		}
	}
	return r, nil
}

// giveTree changes the owner of a directory and all in it, if that is not so yet:
// a data directory that was moved has another user for its builds.
func giveTree(dir string, uid int) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
		return nil
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
	if err != nil {
		return err
	}
	// The directory itself is last: its owner tells that all of it is done.
	return os.Lchown(dir, uid, uid)
}

// Scratch makes a directory whose name nobody can guess: the directory above can
// be passed through by every service, and listed by none.
func (r *runner) Scratch() (string, func() error, error) {
	name := "b-" + strings.ToLower(rand.Text())
	dir, err := r.host.MakeDir(name)
	if err != nil {
		return "", nil, err
	}
	return dir, func() error { return r.host.RemoveDir(name) }, nil
}

// Run runs one command to its end, in its own group.
func (r *runner) Run(ctx context.Context, c compiler.Command) (compiler.Result, error) {
	cmd := sandbox.Command{
		Name: fmt.Sprintf("build-%d", r.n.Add(1)), Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir, Build: true,
		OwnDirs: c.Writable, Limits: sandbox.Limits{MemoryBytes: c.MemoryBytes, PIDs: c.PIDs},
	}
	switch {
	case r.bind:
		cmd.Binds = []sandbox.Bind{{Source: c.Cache, Target: c.CacheAt}}
	case r.host.BuildUID() >= 0:
		cmd.OwnDirs = append(cmd.OwnDirs, c.CacheAt)
	default:
		if err := compiler.ShowCache(c.Cache, c.CacheAt); err != nil {
			return compiler.Result{}, err
		}
	}
	var copies sync.WaitGroup
	stdout, err := copyTo(&copies, c.Stdout)
	if err != nil {
		return compiler.Result{}, err
	}
	defer stdout.Close()
	stderr, err := copyTo(&copies, c.Stderr)
	if err != nil {
		return compiler.Result{}, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	p, err := r.host.Start(ctx, cmd)
	if err != nil {
		if ctx.Err() != nil {
			return compiler.Result{}, ctx.Err()
		}
		return compiler.Result{}, err
	}
	stdout.Close()
	stderr.Close()
	stop := context.AfterFunc(ctx, func() { p.Kill() })
	<-p.Done()
	stop()
	copies.Wait()
	s := p.Exit()
	if err := p.Release(); err != nil {
		return compiler.Result{}, err
	}
	if ctx.Err() != nil {
		return compiler.Result{}, ctx.Err()
	}
	res := compiler.Result{ExitCode: s.Code, OOM: s.OOMKills > 0, PeakBytes: int64(s.Peak), LimitBytes: int64(s.Limit)}
	if s.Signal != 0 {
		res.Signal = unix.SignalName(s.Signal)
	}
	return res, nil
}

// copyTo returns a pipe whose other end is copied to w.
func copyTo(group *sync.WaitGroup, w io.Writer) (*os.File, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	group.Go(func() {
		defer from.Close()
		io.Copy(w, from)
	})
	return to, nil
}
