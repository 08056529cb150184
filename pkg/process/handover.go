package process

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/sdk/wire"
)

// State is an instance as one daemon hands it to the next: its descriptors are
// kept open over the exec, and its sockets and pipes go on where they were.
type State struct {
	Key               solo.Key
	Instance, Version int
	Binary            string
	Limits            solo.Limits
	Proc              sandbox.ProcState
	Addr, SocketDir   string
	At                time.Time
	// Stdout, Stderr and Host are descriptors.
	Stdout, Stderr, Host int
	// Open are the lines that have no end yet, Tail and Trace what was read last.
	Open    [2][]byte
	Tail    []string
	Trace   []string
	Tracing bool
}

// past makes a read that waits return.
var past = time.Unix(1, 0)

// freeze stops the reading of the streams between two reads.
func (i *Instance) freeze() {
	for n := range i.streams {
		i.streams[n].file.SetReadDeadline(past)
	}
	i.reading.Lock()
}

// Thaw goes on reading after a handover that did not come about.
func (i *Instance) Thaw() {
	for n := range i.streams {
		i.streams[n].file.SetReadDeadline(time.Time{})
	}
	i.reading.Unlock()
}

// Handover stops the reading and describes the instance; [Instance.Thaw] takes it
// back. ok is false for one that is ending; nothing is stopped then.
func (i *Instance) Handover() (s State, ok bool, err error) {
	proc, ok := i.proc.State()
	if !ok {
		return s, false, nil
	}
	i.freeze()
	defer func() {
		if err != nil {
			i.Thaw()
		}
	}()
	s = State{
		Key: i.spec.Key, Instance: i.spec.Instance, Version: i.spec.Version, Binary: i.spec.Binary, Limits: i.spec.Limits,
		Proc: proc, Addr: i.addr, SocketDir: i.socketDir, At: i.at, Tail: i.tail.last(), Trace: i.tail.traceLines(), Tracing: i.tracing,
	}
	for n := range i.streams {
		s.Open[n] = i.streams[n].line.open()
	}
	if s.Stdout, err = sandbox.KeepOpen(i.streams[0].file); err != nil {
		return s, false, fmt.Errorf("cannot hand over the output of %s: %w", i.name, err)
	}
	if s.Stderr, err = sandbox.KeepOpen(i.streams[1].file); err != nil {
		return s, false, fmt.Errorf("cannot hand over the output of %s: %w", i.name, err)
	}
	if s.Host, err = i.host.listener.KeepOpen(); err != nil {
		return s, false, fmt.Errorf("cannot hand over the host socket of %s: %w", i.name, err)
	}
	return s, true, nil
}

// open is what was read of a line that has no end yet.
func (l *line) open() []byte { return append(append([]byte(nil), l.head...), l.tail...) }

// Adopt takes an instance over. The error is of one that has ended meanwhile; its
// descriptors are closed then.
func (l *Launcher) Adopt(s State, out Output, host Host) (*Instance, error) {
	proc, err := l.host.Adopt(s.Proc)
	if err != nil {
		for _, fd := range []int{s.Stdout, s.Stderr, s.Host} {
			unix.Close(fd)
		}
		return nil, err
	}
	i := &Instance{
		spec: Spec{
			Key: s.Key, Instance: s.Instance, Version: s.Version, Binary: s.Binary, Limits: s.Limits, Output: out, Host: host,
		},
		launcher: l, name: s.Proc.Name, began: s.At, at: s.At, addr: s.Addr, socketDir: s.SocketDir, proc: proc,
		done: make(chan struct{}), tail: &tail{lines: s.Tail, panicked: s.Trace}, tracing: s.Tracing, shaken: true,
	}
	i.started.Store(true)
	i.client = wire.NewClient(func(ctx context.Context) (*wire.Conn, error) { return i.dial(ctx, i.addr) })
	i.serveHost(wire.AdoptListener(s.Host, s.SocketDir+"/"+wire.HostSocketName))
	for n := range i.streams {
		i.streams[n].line.write(s.Open[n])
	}
	i.watch(inherited(s.Stdout, "stdout"), inherited(s.Stderr, "stderr"), nil, "")
	return i, nil
}

// inherited is a descriptor that came through an exec; it goes through no other.
func inherited(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}
