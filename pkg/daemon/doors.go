package daemon

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/gateway/grpc"
	"github.com/solo-run/solo/pkg/gateway/rest"
)

// doors are the gateways as one part. A server serves once, so each run has new
// ones; what they accept from stays open between two runs, and over an upgrade.
type doors struct {
	rest rest.Config
	grpc grpc.Config
	// open are the listeners, nil until they are bound: REST's, then gRPC's.
	open [2][]*gateway.Door
	// holds asks the run to let nobody in.
	holds chan hold
	// until is waited for before the first caller is let in; nil is nothing.
	until func(context.Context)
	// patient is set while an upgrade waits for the calls in flight.
	patient atomic.Bool
}

// hold is answered once no call is under way; release lets callers in again.
type hold struct {
	held    chan<- struct{}
	release <-chan struct{}
}

// listen binds the addresses, so that a start that cannot fails at once.
func (d *doors) listen() error {
	for n, at := range []struct{ addr, socket string }{{d.rest.Addr, d.rest.Socket}, {d.grpc.Addr, d.grpc.Socket}} {
		ls, err := gateway.Listen(at.addr, at.socket)
		if err != nil {
			d.close()
			return err
		}
		for _, l := range ls {
			door, err := gateway.NewDoor(l)
			if err != nil {
				ls.Close()
				d.close()
				return err
			}
			d.open[n] = append(d.open[n], door)
		}
	}
	d.named()
	return nil
}

// named keeps the port that was chosen freely.
func (d *doors) named() {
	for n, addr := range []*string{&d.rest.Addr, &d.grpc.Addr} {
		for _, door := range d.open[n] {
			if door.Addr().Network() == "tcp" {
				*addr = door.Addr().String()
			}
		}
	}
}

func (d *doors) close() error {
	var errs []error
	for n, list := range d.open {
		for _, door := range list {
			errs = append(errs, door.Close())
		}
		d.open[n] = nil
	}
	return errors.Join(errs...)
}

func views(list []*gateway.Door) gateway.Listeners {
	var out gateway.Listeners
	for _, door := range list {
		out = append(out, door.View())
	}
	return out
}

// run serves until ctx ends. After a failure everything is bound anew.
func (d *doors) run(ctx context.Context) (err error) {
	if d.open[0] == nil {
		if err := d.listen(); err != nil {
			return err
		}
	}
	defer func() {
		if cerr := d.close(); err == nil && ctx.Err() == nil {
			err = cerr
		}
	}()
	if d.until != nil {
		d.until(ctx)
		d.until = nil
	}
	for {
		serve, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- d.serve(serve) }()
		select {
		case err := <-done:
			stop()
			return err
		case h := <-d.holds:
			stop()
			if err := <-done; err != nil {
				return err
			}
			close(h.held)
			select {
			case <-h.release:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// serve runs one pair of servers.
func (d *doors) serve(ctx context.Context) error {
	api, rpc := d.rest, d.grpc
	api.Listeners, rpc.Listeners = views(d.open[0]), views(d.open[1])
	one, other := rest.New(api), grpc.New(rpc)
	if err := errors.Join(one.Listen(), other.Listen()); err != nil {
		return err
	}
	return together(one.Run, other.Run)(ctx)
}

// hold lets nobody in any more, and returns when all calls have ended.
func (d *doors) hold(ctx context.Context) (release func(), err error) {
	held, goOn := make(chan struct{}), make(chan struct{})
	select {
	case d.holds <- hold{held, goOn}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-held:
		return func() { close(goOn) }, nil
	case <-ctx.Done():
		close(goOn)
		return nil, ctx.Err()
	}
}
