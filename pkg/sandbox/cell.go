package sandbox

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
)

// cell is an empty sandbox: a group, and in it a shim that waits for its orders.
// Making one is most of a start, so that some are kept ready.
type cell struct {
	group *group
	shim  forked
	// control is the daemon's end of the shim's socket, tasks are the files of
	// group.tasks.
	control *os.File
	tasks   []*os.File
}

// cells are those that are ready.
type cells struct {
	ready chan *cell
	// taken has a message when one was used since the last look.
	taken chan struct{}
	n     atomic.Uint64
}

// readyCells is how many wait: one start takes one, and a deploy two at most.
const readyCells = 2

// restockPause is how long there has to be no start before new cells are made, so
// that their making takes no core from a program that is starting.
const restockPause = 5 * time.Millisecond

func newCells() *cells {
	return &cells{ready: make(chan *cell, readyCells), taken: make(chan struct{}, 1)}
}

// stockCells keeps cells ready until ctx ends, and then ends those.
func (h *Host) stockCells(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-h.cells.taken:
			pause.Reset(restockPause)
		case <-pause.C:
			if h.frozen.Load() {
				continue
			}
			for len(h.cells.ready) < readyCells {
				c, err := h.makeCell(ctx)
				if err != nil {
					// Who needs one makes it, and is told why it cannot be made.
					break
				}
				h.cells.ready <- c
			}
		case <-ctx.Done():
			for {
				select {
				case c := <-h.cells.ready:
					c.discard()
				default:
					return
				}
			}
		}
	}
}

// cell returns one that has waited, or makes one.
func (h *Host) cell(ctx context.Context) (c *cell, waited bool, err error) {
	select {
	case h.cells.taken <- struct{}{}:
	default:
	}
	select {
	case c := <-h.cells.ready:
		return c, true, nil
	default:
		c, err := h.makeCell(ctx)
		return c, false, err
	}
}

func (h *Host) makeCell(ctx context.Context) (_ *cell, err error) {
	c := &cell{}
	defer func() {
		if err != nil {
			c.discard()
		}
	}()
	sys := &syscall.SysProcAttr{Setsid: true}
	if h.groups != nil {
		if c.group, err = h.groups.create(fmt.Sprintf("c-%d", h.cells.n.Add(1)), false); err != nil {
			return nil, err
		}
		for _, path := range c.group.tasks {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return nil, err
			}
			c.tasks = append(c.tasks, f)
		}
		if c.group.into != "" {
			dir, err := os.OpenFile(c.group.into, unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				return nil, err
			}
			defer dir.Close()
			sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket for the shim: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "shim")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("cannot make a socket for the shim: %w", err)
	}
	c.control = os.NewFile(uintptr(pair[0]), "shim")
	null := h.null.Fd()
	c.shim, err = h.fork(ctx, forkRequest{
		path: h.exe,
		args: []string{"solod", early.ExecArg},
		env:  []string{"GOMAXPROCS=1", "GOGC=off"},
		attr: &syscall.ProcAttr{Dir: "/", Files: []uintptr{null, null, null, uintptr(pair[1])}, Sys: sys},
	})
	return c, err
}

// release lets go of what only the orders needed.
func (c *cell) release() {
	if c.control != nil {
		c.control.Close()
	}
	for _, f := range c.tasks {
		f.Close()
	}
	c.control, c.tasks = nil, nil
}

// discard ends the shim, or what it has become, and removes the group.
func (c *cell) discard() {
	c.release()
	if c.shim.pidfd != nil {
		// Nobody else reaps it, so the pid is still its own.
		syscall.Kill(c.shim.pid, syscall.SIGKILL)
		reap(c.shim)
		c.shim.pidfd.Close()
	}
	if c.group != nil {
		c.group.kill(time.Now().Add(killTime))
		c.group.remove(time.Now().Add(time.Second))
	}
}
