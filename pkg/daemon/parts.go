package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/solo-run/solo/pkg/solo"
)

// part is something that runs as long as the daemon does. run returns when its
// context ends; if it returns before, or panics, the part has failed.
type part struct {
	name string
	run  func(context.Context) error
	// vital parts stand first and cannot be begun anew: what they hold would be
	// lost. The end of one is the daemon's.
	vital bool
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

// The budget of a part, and how long its restarts wait: the first is immediate.
const (
	partRestarts = 5
	partWindow   = time.Minute
	partPause    = 100 * time.Millisecond
)

// tree supervises the parts by rest_for_one: one that fails is started again with
// those after it, which rest on it.
type tree struct {
	nodes []*node
	// failed is told of each failure that a restart follows.
	failed func(part string, err error, restarts int)

	mu sync.Mutex
}

// node is a part as it runs.
type node struct {
	part

	stop context.CancelFunc
	done chan struct{}
	// generation names the present run: the end of another is no news.
	generation int
	fails      []time.Time

	// Guarded by the tree's mu, for readers.
	state    string
	started  time.Time
	restarts int
	last     string
}

// ending is the end of one run of a part.
type ending struct {
	node       *node
	generation int
	err        error
}

func newTree(parts []part, failed func(part string, err error, restarts int)) *tree {
	t := &tree{failed: failed}
	for _, p := range parts {
		t.nodes = append(t.nodes, &node{part: p, state: "starting"})
	}
	return t
}

// snapshot is the tree for readers, in start order.
func (t *tree) snapshot() []solo.TreeNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]solo.TreeNode, len(t.nodes))
	for i, n := range t.nodes {
		strategy := string(solo.RestartPermanent)
		if n.vital {
			strategy = string(solo.RestartTemporary)
		}
		out[i] = solo.TreeNode{Name: n.name, Kind: "part", Strategy: strategy, State: n.state, Restarts: n.restarts, Detail: n.last, Children: []solo.TreeNode{}}
		if !n.started.IsZero() {
			started := n.started.UTC()
			out[i].StartedAt = &started
		}
	}
	return out
}

func (t *tree) set(n *node, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.state = state
	if state == "running" {
		n.started = time.Now()
	}
}

func (t *tree) start(ctx context.Context, n *node, ended chan<- ending) {
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.done = make(chan struct{})
	n.generation++
	t.set(n, "running")
	go func(generation int, done chan struct{}) {
		err := guarded(ctx, n.run)
		close(done)
		ended <- ending{n, generation, err}
	}(n.generation, n.done)
}

// guarded turns a panic of the part's own goroutine into its error.
func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(ctx)
}

// run starts the parts in order and keeps them running until ctx ends, a vital one
// does, or one fails too often. Then it ends them in reverse, each before those
// that it rests on.
func (t *tree) run(ctx context.Context) error {
	// Room for every end there can be before it is looked at.
	ended := make(chan ending, 4*len(t.nodes))
	for _, n := range t.nodes {
		t.start(ctx, n, ended)
	}
	var errs []error
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case e := <-ended:
			if e.generation != e.node.generation {
				continue
			}
			if err := t.mend(ctx, e, ended); err != nil {
				errs = append(errs, err)
				running = false
			}
		}
	}
	for i := len(t.nodes) - 1; i >= 0; i-- {
		t.end(t.nodes[i])
	}
	for len(ended) > 0 {
		if e := <-ended; e.err != nil && e.generation == e.node.generation {
			errs = append(errs, fmt.Errorf("%s: %w", e.node.name, e.err))
		}
	}
	return errors.Join(errs...)
}

func (t *tree) end(n *node) {
	t.set(n, "stopping")
	n.stop()
	<-n.done
	t.set(n, "stopped")
}

// mend restarts a part that failed and those after it. The error is the daemon's
// last word.
func (t *tree) mend(ctx context.Context, e ending, ended chan ending) error {
	n := e.node
	if e.err == nil {
		e.err = errors.New("it ended by itself")
	}
	if n.vital {
		n.generation++ // its end is told here
		return fmt.Errorf("%s: %w", n.name, e.err)
	}
	now := time.Now()
	for len(n.fails) > 0 && now.Sub(n.fails[0]) >= partWindow {
		n.fails = n.fails[1:]
	}
	n.fails = append(n.fails, now)
	if len(n.fails) > partRestarts {
		n.generation++
		return fmt.Errorf("%s failed %d times within %v and is given up: %w", n.name, len(n.fails), partWindow, e.err)
	}
	t.mu.Lock()
	n.restarts++
	n.last, _, _ = strings.Cut(e.err.Error(), "\n")
	restarts := n.restarts
	t.mu.Unlock()
	t.failed(n.name, e.err, restarts)
	from := 0
	for t.nodes[from] != n {
		from++
	}
	for i := len(t.nodes) - 1; i > from; i-- {
		t.nodes[i].generation++
		t.end(t.nodes[i])
	}
	if pause := partPause << (len(n.fails) - 1); len(n.fails) > 1 {
		t.set(n, "backoff")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	for _, n := range t.nodes[from:] {
		t.start(ctx, n, ended)
	}
	return nil
}
