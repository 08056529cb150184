package wire

import (
	"bufio"
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// Conn is a connected unix socket. Package net would double what a service links,
// so the socket is a file of the runtime's poller.
type Conn struct {
	file *os.File
	r    *bufio.Reader
	// out is what is about to be written, kept for its memory.
	out []byte
}

func newConn(fd int) *Conn {
	// A non-blocking descriptor joins the poller: deadlines and Close work.
	return wrap(os.NewFile(uintptr(fd), "socket"))
}

func wrap(f *os.File) *Conn { return &Conn{file: f, r: bufio.NewReaderSize(f, 8<<10)} }

// Close closes the connection; reads and writes that wait return.
func (c *Conn) Close() error { return c.file.Close() }

// Listener is a listening unix socket.
type Listener struct {
	file *os.File
	path string
}

// ListenUnix binds and listens at path, which must be free. mode is the
// socket's file mode.
func ListenUnix(path string, mode uint32) (*Listener, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
	if err == nil {
		if err = syscall.Chmod(path, mode); err == nil {
			err = syscall.Listen(fd, backlog)
		}
	}
	if err != nil {
		syscall.Close(fd)
		return nil, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	return &Listener{os.NewFile(uintptr(fd), path), path}, nil
}

// backlog holds the connections of a burst of calls, 1024 at the most, until
// they are accepted.
const backlog = 1024

// Path is where the socket is.
func (l *Listener) Path() string { return l.path }

// KeepOpen duplicates the socket into a descriptor that an exec keeps, for
// [AdoptListener] in the program that comes after.
func (l *Listener) KeepOpen() (int, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dup uintptr
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) { dup, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD, 3) })
	if err == nil && errno != 0 {
		err = os.NewSyscallError("fcntl", errno)
	}
	return int(dup), err
}

// AdoptListener is a listening socket that came through an exec.
func AdoptListener(fd int, path string) *Listener {
	syscall.CloseOnExec(fd)
	syscall.SetNonblock(fd, true)
	return &Listener{os.NewFile(uintptr(fd), path), path}
}

// Close ends Accept.
func (l *Listener) Close() error { return l.file.Close() }

// Accept waits for a connection.
func (l *Listener) Accept() (*Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Read(func(s uintptr) bool {
		for {
			fd, _, failed = syscall.Accept4(int(s), syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			switch failed {
			case syscall.EINTR, syscall.ECONNABORTED:
				continue
			case syscall.EAGAIN:
				return false
			}
			return true
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return newConn(fd), nil
}

// DialUnix connects to a unix socket. A full backlog is waited for until ctx ends.
func DialUnix(ctx context.Context, path string) (*Conn, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if err == nil {
			return newConn(fd), nil
		}
		if err == syscall.EINTR {
			continue
		}
		if err != syscall.EAGAIN {
			break
		}
		wait := time.NewTimer(time.Millisecond)
		select {
		case <-wait.C:
			continue
		case <-ctx.Done():
			wait.Stop()
			err = ctx.Err()
		}
		break
	}
	syscall.Close(fd)
	return nil, &os.PathError{Op: "connect", Path: path, Err: err}
}

// Cred is who is at the other end, by the kernel's word.
type Cred struct {
	PID, UID int
}

// PeerCred returns who connected, or who listens.
func PeerCred(c *Conn) (Cred, error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return Cred{}, err
	}
	return Cred{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// expired reports whether err is of a deadline that SetDeadline had set.
func expired(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
