package daemon

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// part is something that runs as long as the daemon does.
type part struct {
	name string
	run  func(context.Context) error
}

// together makes one part of several that end at the same time; if one of them
// fails, so do the others.
func together(runs ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, run := range runs {
			group.Go(func() error { return run(ctx) })
		}
		return group.Wait()
	}
}

// runParts starts the parts in order and waits until ctx ends or one of them
// does; then it ends them in reverse, each before the one that it rests on. A
// part that returns before it is asked to has failed, also without an error.
func runParts(ctx context.Context, parts []part) error {
	type running struct {
		part
		stop context.CancelFunc
		done chan struct{}
		err  error
	}
	all := make([]*running, 0, len(parts))
	ended := make(chan *running, len(parts))
	for _, p := range parts {
		pctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{part: p, stop: stop, done: make(chan struct{})}
		all = append(all, r)
		go func() {
			defer close(r.done)
			r.err = r.run(pctx)
			ended <- r
		}()
	}
	var errs []error
	var first *running
	select {
	case <-ctx.Done():
	case first = <-ended:
		if first.err == nil {
			errs = append(errs, fmt.Errorf("%s ended by itself", first.name))
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		all[i].stop()
		<-all[i].done
		if err := all[i].err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", all[i].name, err))
		}
	}
	return errors.Join(errs...)
}
