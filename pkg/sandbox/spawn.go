package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
)

// forkRequest asks the spawner for one child.
type forkRequest struct {
	path  string
	args  []string
	env   []string
	attr  *syscall.ProcAttr
	reply chan<- forked
	// exec replaces the daemon instead, and returns only if that failed.
	exec bool
}

// forked is a child, or why there is none. The pidfd is non-blocking.
type forked struct {
	pid   int
	pidfd *os.File
	err   error
}

// mainThread takes loops that want to be on the process's first thread.
var mainThread = make(chan func())

// lent is set while ServeMain runs.
var lent atomic.Bool

// ServeMain lends the thread of its caller, who must be main on the first thread,
// to whoever forks, and runs the program beside. The kernel ends a program when the
// thread that forked it ends: the first one ends last, and an exec keeps it.
func ServeMain(run func()) {
	runtime.LockOSThread()
	done := make(chan struct{})
	lent.Store(true)
	go func() {
		defer close(done)
		run()
	}()
	for {
		select {
		case loop := <-mainThread:
			loop()
		case <-done:
			lent.Store(false)
			return
		}
	}
}

// ExecMain puts another program into the place of this process, on the thread that
// [ServeMain] was lent and that nothing else uses yet. It returns only if that
// failed.
func ExecMain(path string, args, env []string) error {
	if !lent.Load() {
		return errors.New("the first thread is not lent")
	}
	failed := make(chan error)
	mainThread <- func() { failed <- syscall.Exec(path, args, env) }
	return <-failed
}

// onForkThread runs a loop on a thread that does nothing else and stays for as
// long as what the loop forks. It returns when the loop does.
func onForkThread(loop func()) {
	done := make(chan struct{})
	if lent.Load() {
		mainThread <- func() {
			defer close(done)
			loop()
		}
	} else {
		go func() {
			// Never unlocked: the thread ends with its goroutine.
			runtime.LockOSThread()
			defer close(done)
			loop()
		}()
	}
	<-done
}

func spawnLoop(requests <-chan forkRequest, quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case req := <-requests:
			if req.exec {
				req.reply <- forked{err: syscall.Exec(req.path, req.args, req.env)}
				continue
			}
			req.reply <- fork(req)
		}
	}
}

func fork(req forkRequest) forked {
	fd := -1
	attr := *req.attr
	sys := *attr.Sys
	sys.PidFD = &fd
	attr.Sys = &sys
	attr.Env = req.env
	pid, err := syscall.ForkExec(req.path, req.args, &attr)
	if err != nil {
		return forked{err: err}
	}
	if fd < 0 {
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
		return forked{err: errors.New("this kernel has no pidfd")}
	}
	// Non-blocking, the runtime's poller waits for it, and no thread has to.
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
		return forked{err: err}
	}
	return forked{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
}

// errNotRunning is the answer when no Run is there any more to fork.
var errNotRunning = errors.New("the sandbox has been stopped")

func (h *Host) fork(ctx context.Context, req forkRequest) (forked, error) {
	reply := make(chan forked, 1)
	req.reply = reply
	select {
	case <-h.guarded:
	case <-h.stopped:
		return forked{}, errNotRunning
	case <-ctx.Done():
		return forked{}, ctx.Err()
	}
	select {
	case h.forks <- req:
		got := <-reply
		return got, got.err
	case <-h.stopped:
		return forked{}, errNotRunning
	case <-ctx.Done():
		return forked{}, ctx.Err()
	}
}

// reap waits for the child without a thread of its own and returns how it ended.
func reap(f forked) (syscall.WaitStatus, syscall.Rusage, error) {
	var status syscall.WaitStatus
	var usage syscall.Rusage
	conn, err := f.pidfd.SyscallConn()
	if err != nil {
		return status, usage, err
	}
	var waitErr error
	err = conn.Read(func(uintptr) bool {
		for {
			pid, err := syscall.Wait4(f.pid, &status, syscall.WNOHANG, &usage)
			if err == syscall.EINTR {
				continue
			}
			waitErr = err
			return pid == f.pid || err != nil
		}
	})
	if err == nil {
		err = waitErr
	}
	return status, usage, err
}

// Start runs a command. When it returns a Proc the program itself is running: the
// error of each step before, also of the shim's, is Start's. On an error nothing
// is left of it but Dir and OwnDirs, which may have changed hands.
func (h *Host) Start(ctx context.Context, c Command) (_ *Proc, err error) {
	if err := checkName(c.Name); err != nil {
		return nil, err
	}
	if len(c.Args) == 0 || c.Dir == "" {
		return nil, fmt.Errorf("cannot start %s: arguments and working directory are required", c.Name)
	}
	select {
	case <-h.stopped:
		return nil, fmt.Errorf("cannot start %s: %w", c.Name, errNotRunning)
	default:
	}
	if !h.reserve(c.Name) {
		return nil, fmt.Errorf("cannot start %s: the name is in use", c.Name)
	}
	defer func() {
		if err != nil {
			h.unreserve(c.Name)
		}
	}()
	p := &Proc{host: h, name: c.Name, uid: -1, done: make(chan struct{}), started: time.Now(), limits: c.Limits}
	if len(c.Binds) > 0 && !h.layers[layerMounts].On {
		return nil, fmt.Errorf("cannot start %s: this host has no mounts to offer", c.Name)
	}
	switch {
	case h.uids != nil && c.Build:
		p.uid, p.sharedUID = h.uids.first, true
	case h.uids != nil:
		uid, err := h.uids.lease()
		if err != nil {
			return nil, err
		}
		p.uid = uid
	}
	defer func() {
		if err != nil && p.uid >= 0 && !p.sharedUID {
			h.uids.release(p.uid)
		}
	}()
	if err := h.become(ctx, c, p); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", c.Name, err)
	}
	h.mu.Lock()
	h.procs[c.Name] = p
	h.mu.Unlock()
	go p.wait()
	select {
	case <-h.stopped:
		// Run may have looked for what to end before this one was listed.
		p.Kill()
		return p, nil
	default:
		return p, nil
	}
}

// become turns a cell into the program. One that died while it was waiting is
// none of the program's business.
func (h *Host) become(ctx context.Context, c Command, p *Proc) error {
	for {
		cell, waited, err := h.cell(ctx)
		if err != nil {
			return err
		}
		if err = h.furnish(ctx, cell, c, p); err == nil {
			return nil
		}
		cell.discard()
		h.guard.gone(cell.shim.pid)
		if !waited || !errors.Is(err, errShimDied) {
			return err
		}
	}
}

// furnish makes the cell the command's own and gives the orders.
func (h *Host) furnish(ctx context.Context, cell *cell, c Command, p *Proc) error {
	p.group, p.forked = cell.group, cell.shim
	if p.group != nil {
		if err := p.group.limit(c.Limits); err != nil {
			return fmt.Errorf("its limits cannot be set: %w", err)
		}
	}
	if p.uid >= 0 {
		for _, dir := range c.OwnDirs {
			if err := give(dir, p.uid); err != nil {
				return err
			}
		}
	}
	return h.order(ctx, cell, c, p)
}

func (h *Host) reserve(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.procs[name]; taken {
		return false
	}
	h.procs[name] = nil
	return true
}

func (h *Host) unreserve(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.procs, name)
}

// give changes the owner of a directory, never of what a link there points to.
func give(dir string, uid int) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, uid, uid); err != nil {
		return fmt.Errorf("cannot give %s away: %w", dir, err)
	}
	return nil
}

// shimTime bounds what the shim needs to become the program.
const shimTime = 10 * time.Second

// order gives the shim its orders and waits until it has become the program.
func (h *Host) order(ctx context.Context, cell *cell, c Command, p *Proc) error {
	defer cell.release()
	spec, err := h.spec(c, p).Encode()
	if err != nil {
		return err
	}
	binary := c.Binary
	if binary == nil {
		if binary, err = os.Open(c.Path); err != nil {
			return err
		}
		defer binary.Close()
	}
	files := append([]*os.File{orFile(c.Stdout, h.null), orFile(c.Stderr, h.null), binary}, cell.tasks...)
	if err := h.guard.add(p.forked.pid, p); err != nil {
		return err
	}
	deadline := time.Now().Add(shimTime)
	if until, ok := ctx.Deadline(); ok && until.Before(deadline) {
		deadline = until
	}
	cell.control.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { cell.control.SetDeadline(time.Now()) })()
	if err := send(cell.control, spec, files); err != nil {
		if errors.Is(err, syscall.EPIPE) {
			err = errShimDied
		}
		return firstOf(ctx.Err(), err)
	}
	// The socket closes when the program takes the shim's place.
	said, err := io.ReadAll(io.LimitReader(cell.control, 4096))
	why, ready := bytes.CutPrefix(said, []byte{early.Ready})
	switch {
	case errors.Is(err, syscall.ECONNRESET), err == nil && len(said) == 0:
		return firstOf(ctx.Err(), errShimDied)
	case err != nil:
		return firstOf(ctx.Err(), err)
	case len(why) > 0:
		return errors.New(strings.ToValidUTF8(string(why), "?"))
	case !ready:
		return errShimDied
	}
	return nil
}

// errShimDied is a shim that came to its end without a word.
var errShimDied = errors.New("the process that was to become the program was killed")

// send writes a message whose first byte carries the files.
func send(control *os.File, message []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	conn, err := control.SyscallConn()
	if err != nil {
		return err
	}
	var sent int
	var sendErr error
	rights := unix.UnixRights(fds...)
	err = conn.Write(func(fd uintptr) bool {
		sent, sendErr = unix.SendmsgN(int(fd), message, rights, nil, unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN && sendErr != unix.EINTR
	})
	runtime.KeepAlive(files)
	err = firstOf(err, sendErr)
	// Once it has all, the other side may be gone already: not even an empty write
	// would go through.
	if err == nil && sent < len(message) {
		_, err = control.Write(message[sent:])
	}
	return err
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func orFile(f, other *os.File) *os.File {
	if f != nil {
		return f
	}
	return other
}

// defaultOpenFiles is RLIMIT_NOFILE of a command that names none.
const defaultOpenFiles = 8192

func (h *Host) spec(c Command, p *Proc) *early.Spec {
	s := &early.Spec{Args: c.Args, Env: c.Env, Dir: c.Dir, UID: p.uid}
	for _, b := range c.Binds {
		s.Binds = append(s.Binds, early.Bind(b))
	}
	if p.group != nil {
		s.Groups = len(p.group.tasks)
	}
	s.NoNewPrivs = h.layers["no_new_privs"].On
	if !h.layers["rlimits"].On {
		return s
	}
	files := c.Limits.OpenFiles
	if files <= 0 {
		files = defaultOpenFiles
	}
	s.Rlimits = []early.Rlimit{
		{Resource: unix.RLIMIT_CORE, Max: 0},
		{Resource: unix.RLIMIT_MEMLOCK, Max: 0},
		{Resource: unix.RLIMIT_MSGQUEUE, Max: 0},
		{Resource: unix.RLIMIT_NOFILE, Max: uint64(files)},
	}
	if c.Limits.FileBytes > 0 {
		s.Rlimits = append(s.Rlimits, early.Rlimit{Resource: unix.RLIMIT_FSIZE, Max: uint64(c.Limits.FileBytes)})
	}
	if c.Limits.PIDs > 0 && p.uid >= 0 && !p.sharedUID && !h.layers[layerPIDs].On {
		// Its user is nobody else's, so the limit per user is one per command.
		s.Rlimits = append(s.Rlimits, early.Rlimit{Resource: unix.RLIMIT_NPROC, Max: uint64(c.Limits.PIDs)})
	}
	return s
}
