package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
)

// guardHandle is the daemon's end of the guard's pipe. Its closing is what the
// guard waits for, so no other process may hold it; an upgrade in place, which
// execs under the same pid, keeps it open instead.
type guardHandle struct {
	mu   sync.Mutex
	pipe *os.File
	pid  int
	// procs are those that the guard must know by pid: where there are no groups.
	procs map[int]string
}

// guardPause spaces the starts of guards that do not live.
const guardPause = time.Second

// runGuard keeps one guard alive until ctx ends, then tells it to leave. The
// error is that of the first start: without a guard nothing is run.
func (h *Host) runGuard(ctx context.Context) error {
	for first := true; ; first = false {
		child, err := h.nextGuard()
		if err != nil && first {
			return fmt.Errorf("cannot start the guard: %w", err)
		}
		if err == nil {
			if first {
				close(h.guarded)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				reap(child)
				child.pidfd.Close()
			}()
			select {
			case <-ended:
			case <-ctx.Done():
				h.guard.leave()
				<-ended
				return nil
			}
		}
		select {
		case <-time.After(guardPause):
		case <-ctx.Done():
			h.guard.leave()
			return nil
		}
	}
}

// nextGuard is the guard that was handed over, once, or a new one.
func (h *Host) nextGuard() (forked, error) {
	if a := h.adopted.Swap(nil); a != nil {
		child, err := adoptChild(a.GuardPID)
		if err == nil {
			h.guard.mu.Lock()
			h.guard.pipe = a.guardPipe
			h.guard.pid = a.GuardPID
			h.guard.mu.Unlock()
			return child, nil
		}
		a.guardPipe.Close()
	}
	return h.startGuard()
}

func (h *Host) startGuard() (forked, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return forked{}, err
	}
	defer r.Close()
	lines := []string{early.GuardRunDir(h.runDir)}
	if h.groups != nil {
		for _, tree := range h.groups.trees() {
			lines = append(lines, early.GuardTree(tree))
		}
	}
	h.guard.attach(w, lines)
	// Not through h.fork: at the end of Run no more is started, but a guard
	// must be there until all has ended.
	reply := make(chan forked, 1)
	h.forks <- forkRequest{
		path: h.exe,
		args: []string{"solod", early.GuardArg},
		env:  []string{"GOMAXPROCS=1"},
		attr: &syscall.ProcAttr{
			Dir:   "/",
			Files: []uintptr{h.null.Fd(), h.null.Fd(), h.null.Fd(), r.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		},
		reply: reply,
	}
	child := <-reply
	if child.err != nil {
		h.guard.leave()
		return forked{}, child.err
	}
	h.guard.begun(child.pid)
	return child, nil
}

// attach writes what a guard has to end into its pipe before there is a guard: one
// that lives knows it, however soon the daemon dies.
func (g *guardHandle) attach(pipe *os.File, lines []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pipe != nil {
		g.pipe.Close()
	}
	g.pipe, g.pid = pipe, 0
	for _, line := range append(lines, early.GuardGo) {
		g.send(line)
	}
}

// begun tells the new guard of the processes that it must know by pid: they may be
// more than a pipe holds that nobody reads yet.
func (g *guardHandle) begun(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid = pid
	for _, line := range g.procs {
		g.send(line)
	}
}

// send writes one line; a guard that died meanwhile is replaced and told anew.
func (g *guardHandle) send(line string) {
	if g.pipe != nil {
		g.pipe.SetWriteDeadline(time.Now().Add(guardPause))
		g.pipe.WriteString(line + "\n")
	}
}

// add makes a process known to the guard before it runs, where no group tells
// the guard what is ours.
func (g *guardHandle) add(pid int, p *Proc) error {
	if p.group != nil {
		return nil
	}
	state, err := early.ReadProc(pid)
	if err != nil {
		return errors.New("the process ended at once")
	}
	p.start = state.Start
	line := early.GuardProc(state, p.uid)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.procs == nil {
		g.procs = map[int]string{}
	}
	g.procs[pid] = line
	g.send(line)
	return nil
}

func (g *guardHandle) gone(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.procs[pid]; known {
		delete(g.procs, pid)
		g.send(early.GuardGone(pid))
	}
}

// leave sends the guard away: there is nothing left to end.
func (g *guardHandle) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.send(early.GuardBye)
	if g.pipe != nil {
		g.pipe.Close()
		g.pipe = nil
	}
}
