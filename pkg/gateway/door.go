package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Door is a listener that outlives the servers that accept from it: a server that
// is replaced closes its own view, and who comes meanwhile waits in the kernel.
type Door struct {
	inner listener
}

// listener is what TCP and unix listeners have in common.
type listener interface {
	net.Listener
	SetDeadline(time.Time) error
	File() (*os.File, error)
}

// NewDoor takes a listener of [Listen].
func NewDoor(l net.Listener) (*Door, error) {
	inner, ok := l.(listener)
	if !ok {
		return nil, fmt.Errorf("cannot share a listener of type %T", l)
	}
	return &Door{inner}, nil
}

// AdoptDoor takes a listening socket that came through an exec. The descriptor stays
// the caller's. A unix socket is removed at its close, as one of [Listen].
func AdoptDoor(fd int) (*Door, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt a listener: %w", err)
	}
	f := os.NewFile(uintptr(dup), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt a listener: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	return NewDoor(l)
}

// Addr is what is listened on.
func (d *Door) Addr() net.Addr { return d.inner.Addr() }

// File is a duplicate of the socket.
func (d *Door) File() (*os.File, error) { return d.inner.File() }

// Close ends the listening.
func (d *Door) Close() error { return d.inner.Close() }

// View is a listener for one server. There is one at a time: the next is made when
// the last is closed and its server has ended.
func (d *Door) View() net.Listener {
	d.inner.SetDeadline(time.Time{})
	return &view{door: d}
}

type view struct {
	door   *Door
	closed atomic.Bool
}

func (v *view) Accept() (net.Conn, error) {
	for {
		c, err := v.door.inner.Accept()
		if err == nil {
			return c, nil // also one that came with the close: it is served
		}
		if v.closed.Load() {
			return nil, net.ErrClosed
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

func (v *view) Addr() net.Addr { return v.door.Addr() }

func (v *view) Close() error {
	if v.closed.CompareAndSwap(false, true) {
		return v.door.inner.SetDeadline(time.Unix(1, 0))
	}
	return nil
}
