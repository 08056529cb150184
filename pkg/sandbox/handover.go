package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
)

// Handover is a boot with all that runs in it, as one daemon hands it to the
// program that takes its place under the same pid. The children stay children, the
// guard stays, the groups and the run directory stay.
type Handover struct {
	ID, Boot string
	RunDir   string
	// Cells is the highest number of a cell.
	Cells    uint64
	GuardPID int
	// GuardFD is the descriptor of the guard's pipe, kept open over the exec.
	GuardFD int

	guardPipe *os.File
}

// ProcState is one program that is handed over.
type ProcState struct {
	Name      string
	PID       int
	UID       int
	SharedUID bool
	// Group is the name of its group, "" where there are none.
	Group   string
	Limits  Limits
	Started time.Time
	// Start is the kernel's start time, which with the pid is a process's name.
	Start uint64
}

// Freeze ends what waits for a start and every build, and starts nothing more by
// itself, so that what runs can be handed over. [Host.Thaw] takes it back.
func (h *Host) Freeze() {
	h.frozen.Store(true)
	for {
		select {
		case c := <-h.cells.ready:
			c.discard()
			continue
		default:
		}
		break
	}
	h.mu.Lock()
	var builds []*Proc
	for _, p := range h.procs {
		if p != nil && p.sharedUID {
			builds = append(builds, p)
		}
	}
	h.mu.Unlock()
	for _, p := range builds {
		p.Kill()
	}
}

// Thaw goes on after a handover that did not come about.
func (h *Host) Thaw() {
	h.frozen.Store(false)
	select {
	case h.cells.taken <- struct{}{}:
	default:
	}
}

// Handover describes the host without its programs. The descriptor in it stays
// open over an exec.
func (h *Host) Handover() (*Handover, error) {
	out := &Handover{ID: h.cfg.ID, Boot: h.cfg.Boot, RunDir: h.runDir, Cells: h.cells.n.Load()}
	h.guard.mu.Lock()
	defer h.guard.mu.Unlock()
	if h.guard.pipe == nil || h.guard.pid == 0 {
		return nil, errors.New("there is no guard to hand over: it is being replaced")
	}
	out.GuardPID = h.guard.pid
	var err error
	out.GuardFD, err = KeepOpen(h.guard.pipe)
	return out, err
}

// State describes the program for a handover; false for one that has ended.
func (p *Proc) State() (ProcState, bool) {
	select {
	case <-p.done:
		return ProcState{}, false
	default:
	}
	state, err := early.ReadProc(p.forked.pid)
	if err != nil || state.Dead() {
		return ProcState{}, false
	}
	s := ProcState{Name: p.name, PID: p.forked.pid, UID: p.uid, SharedUID: p.sharedUID, Limits: p.limits, Started: p.started, Start: state.Start}
	if p.group != nil {
		s.Group = p.group.name
	}
	return s, true
}

// KeepOpen duplicates a file into a descriptor that an exec keeps.
func KeepOpen(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup := -1
	var dupErr error
	if err := conn.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD, 3) }); err != nil {
		return -1, err
	}
	return dup, dupErr
}

// Exec puts another program into the place of this process, on the thread that
// has forked the programs: the kernel ends them with it. It returns only if that
// failed.
func (h *Host) Exec(path string, args, env []string) error {
	reply := make(chan forked, 1)
	select {
	case h.forks <- forkRequest{path: path, args: args, env: env, exec: true, reply: reply}:
		return (<-reply).err
	case <-h.stopped:
		return errNotRunning
	}
}

// adopt takes over what stays the same.
func (h *Host) adopt(a *Handover) {
	h.cfg.ID, h.cfg.Boot = a.ID, a.Boot
	h.runDir, h.cfg.RunRoot = a.RunDir, filepath.Dir(a.RunDir)
	h.cells.n.Store(a.Cells)
	unix.CloseOnExec(a.GuardFD)
	a.guardPipe = os.NewFile(uintptr(a.GuardFD), "guard")
	h.adopted.Store(a)
}

// adoptChild makes a child of this process one that can be waited for.
func adoptChild(pid int) (forked, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return forked{}, fmt.Errorf("process %d is gone: %w", pid, err)
	}
	return forked{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Adopt takes a program over. The error is of one that has ended meanwhile.
func (h *Host) Adopt(s ProcState) (*Proc, error) {
	state, err := early.ReadProc(s.PID)
	if err != nil || state.Start != s.Start {
		return nil, fmt.Errorf("cannot adopt %s: process %d is gone", s.Name, s.PID)
	}
	p := &Proc{
		host: h, name: s.Name, uid: s.UID, sharedUID: s.SharedUID, done: make(chan struct{}), started: s.Started, limits: s.Limits, start: s.Start,
	}
	if p.forked, err = adoptChild(s.PID); err != nil {
		return nil, fmt.Errorf("cannot adopt %s: %w", s.Name, err)
	}
	if s.Group != "" && h.groups != nil {
		if p.group, err = h.groups.create(s.Group, true); err != nil {
			p.forked.pidfd.Close()
			return nil, fmt.Errorf("cannot adopt %s: %w", s.Name, err)
		}
		p.group.memoryLimit = uint64(max(s.Limits.MemoryBytes, 0))
	}
	if p.group == nil {
		if err := h.guard.add(s.PID, p); err != nil {
			p.forked.pidfd.Close()
			return nil, fmt.Errorf("cannot adopt %s: %w", s.Name, err)
		}
	}
	if s.UID >= 0 && !s.SharedUID && h.uids != nil {
		h.uids.take(s.UID)
	}
	h.mu.Lock()
	h.procs[s.Name] = p
	h.mu.Unlock()
	go p.wait()
	return p, nil
}

// take marks a uid as leased.
func (p *uidPool) take(uid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leased[uid] = true
	if next := uid - p.first + 1; next > p.next {
		p.next = max(1, next%uidsPerRange)
	}
}
