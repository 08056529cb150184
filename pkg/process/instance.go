package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/sdk/wire"
)

// Instance is a process that serves. Its methods may be called by many goroutines
// at once.
type Instance struct {
	spec     Spec
	launcher *Launcher
	name     string
	began    time.Time
	step     string

	proc    *sandbox.Proc
	at      time.Time
	started atomic.Bool
	client  *wire.Client
	host    *hostSocket
	tail    *tail
	curve   curve
	// addr is the process's own socket, socketDir where it and the host's are.
	addr, socketDir string
	streams         [2]stream
	// reading is shared by whoever reads the streams; who has it alone has stopped
	// them. shaken and tracing are what was read so far.
	reading         sync.RWMutex
	shaken, tracing bool

	// wanted is the order that ended the process, nil for none.
	wanted atomic.Pointer[solo.Reason]
	exit   solo.Exit
	done   chan struct{}
}

// hostSocket serves the service's calls to its host.
type hostSocket struct {
	listener *wire.Listener
	server   *wire.Server
	wait     sync.WaitGroup
}

func (h *hostSocket) close() {
	h.listener.Close()
	h.server.Close()
	h.wait.Wait()
}

// Number is the instance's, within its service.
func (i *Instance) Number() int { return i.spec.Instance }

// PID is the host's.
func (i *Instance) PID() int { return i.proc.PID() }

// StartedAt is when the process was started.
func (i *Instance) StartedAt() time.Time { return i.at }

// Done closes when the process and all that it forked are reaped and nothing of
// them is left.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Exit is how the instance ended. It waits for that.
func (i *Instance) Exit() solo.Exit {
	<-i.done
	return i.exit
}

// Isolation tells which layers the instance has.
func (i *Instance) Isolation() map[string]string { return i.launcher.isolation }

// Usage is what the kernel has counted so far.
func (i *Instance) Usage() (*solo.Usage, error) {
	u, err := i.proc.Usage()
	if err != nil {
		return nil, err
	}
	return &u, nil
}

// want notes the order that is about to end the process. The first one counts,
// and none that comes after the end.
func (i *Instance) want(reason solo.Reason) {
	if i.proc != nil {
		select {
		case <-i.proc.Done():
			return
		default:
		}
	}
	i.wanted.CompareAndSwap(nil, &reason)
}

// kill ends the whole group at once.
func (i *Instance) kill() {
	if i.proc != nil {
		// What could not be ended is told by Release, and kept from being reused.
		i.proc.Kill()
	}
}

// Stop ends the process: by the author's Stop, by SIGTERM, and at the timeout by
// SIGKILL to the whole group; with force, by that at once. It returns when all is
// reaped. reason is what the exit will say. A second Stop may only shorten the
// first.
func (i *Instance) Stop(reason solo.Reason, timeout time.Duration, force bool) {
	i.want(reason)
	if !force && timeout > 0 {
		i.ask(timeout)
	}
	i.kill()
	<-i.done
}

// askShare is the part of the timeout that the author's Stop has before SIGTERM.
const askShare = 0.6

// ask ends the process by its own means; it returns at its end or the timeout.
func (i *Instance) ask(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	asked, stop := context.WithTimeout(ctx, time.Duration(float64(timeout)*askShare))
	defer stop()
	reply, err := i.client.Call(asked, &wire.Head{Kind: wire.KindStop, TimeoutMS: millis(asked)}, nil, 0)
	if err == nil && reply.Code == "" {
		// It ends by itself now; SIGTERM is for one that does not.
		select {
		case <-i.proc.Done():
			return
		case <-asked.Done():
		}
	}
	i.proc.Signal(syscall.SIGTERM)
	select {
	case <-i.proc.Done():
	case <-ctx.Done():
	}
}

// conclude says how the instance ended and leaves nothing of it.
func (i *Instance) conclude() {
	if i.client != nil {
		i.client.Close()
	}
	i.host.close()
	i.exit = i.judge(i.proc.Exit())
	var errs []error
	errs = append(errs, i.launcher.host.RemoveDir(i.name), i.proc.Release())
	if err := errors.Join(errs...); err != nil {
		i.exit.Details["left"] = err.Error()
	}
	close(i.done)
}

// Ping asks whether the process answers at all: its SDK does, not its author's code.
func (i *Instance) Ping(ctx context.Context) error { return i.probe(ctx, wire.KindPing) }

// Health asks the author's Health, and takes a sample of the usage.
func (i *Instance) Health(ctx context.Context) error {
	i.sample()
	return i.probe(ctx, wire.KindHealth)
}

func (i *Instance) probe(ctx context.Context, kind wire.Kind) error {
	reply, err := i.client.Call(ctx, &wire.Head{Kind: kind, TimeoutMS: millis(ctx)}, nil, 0)
	if err != nil {
		return err
	}
	if reply.Code != "" {
		return errors.New(reply.Message)
	}
	return nil
}

// Call makes one call of the service. The error is a *[solo.Error]: the service's
// own code, service_error for another failure of it, deadline_exceeded, or
// unavailable, with details.exit where the process died under the call. A call of
// which no byte was sent is made again once.
func (i *Instance) Call(ctx context.Context, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	head := &wire.Head{Kind: wire.KindCall, TimeoutMS: millis(ctx), Method: req.Method, ContentType: req.ContentType, Metadata: req.Metadata}
	reply, err := i.client.Call(ctx, head, req.Body, wire.MaxBody)
	if errors.Is(err, wire.ErrNotSent) && !i.ended() {
		reply, err = i.client.Call(ctx, head, req.Body, wire.MaxBody)
	}
	switch {
	case err != nil:
		return nil, i.callFailed(ctx, err)
	case reply.Code != "":
		code := solo.Code(reply.Code)
		if !code.Known() {
			code = solo.CodeServiceError
		}
		return nil, solo.Errorf(code, "%s", reply.Message)
	}
	return &solo.InvokeReply{Body: reply.Body, ContentType: reply.ContentType, Metadata: reply.Metadata}, nil
}

func (i *Instance) ended() bool {
	select {
	case <-i.done:
		return true
	default:
		return false
	}
}

func (i *Instance) callFailed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return solo.Errorf(solo.CodeDeadlineExceeded, "the service did not answer within the deadline")
	case errors.Is(err, context.Canceled):
		return solo.Errorf(solo.CodeUnavailable, "the caller went away").Because(err)
	case errors.Is(err, wire.ErrTooLarge):
		return solo.Errorf(solo.CodeServiceError, "the service's reply is larger than %d MiB", wire.MaxBody>>20).With("limit", wire.MaxBody)
	}
	// A connection that breaks is mostly the end of its process.
	select {
	case <-i.done:
		return solo.Errorf(solo.CodeUnavailable, "the service ended under the call: %s", i.exit.Reason).With("exit", i.exit).Because(err)
	case <-ctx.Done():
	case <-time.After(exitGrace):
	}
	return solo.Errorf(solo.CodeUnavailable, "the connection to the service broke under the call").Because(fmt.Errorf("%s: %w", i.name, err))
}
