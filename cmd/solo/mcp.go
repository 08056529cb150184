package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/solo-run/solo/sdk/client"
)

// maxRequests bounds the requests of MCP that are under way at once.
const maxRequests = 64

func (a *app) mcpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mcp",
		Short: "Speak the Model Context Protocol on stdin and stdout",
		Long: `Speak the Model Context Protocol on stdin and stdout, for an agent that is to write,
deploy and watch services. The tools are those of the daemon at --addr, in the name
of --tenant or --token; each is named as its command.

A line is one message. One that is none is answered with an error, and the next is
read. At the end of stdin the requests under way are finished.`,
		Example: "  solo mcp --tenant acme",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			session, err := c.MCP()
			if err != nil {
				return &usageError{cause: err, command: cmd.CommandPath()}
			}
			b := &bridge{session: session, out: a.out, running: map[string]context.CancelFunc{}}
			return b.serve(cmd.Context(), a.in)
		},
	}
}

// bridge carries messages between the streams and the daemon. Nothing but messages
// is written to out.
type bridge struct {
	session interface {
		Send(ctx context.Context, message json.RawMessage, each func(json.RawMessage) error) error
	}

	// writing guards out and its first error.
	writing sync.Mutex
	out     io.Writer
	failed  error

	mu sync.Mutex
	// running are the requests under way, by id.
	running map[string]context.CancelFunc
	group   sync.WaitGroup
}

// serve answers the messages of in until it ends.
func (b *bridge) serve(ctx context.Context, in io.Reader) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lines := make(chan line)
	go readLines(ctx, in, lines)
	var err error
	for l := range received(ctx, lines) {
		if l.err != nil && !errors.Is(l.err, errLongLine) {
			if err = l.err; errors.Is(err, io.EOF) {
				err = nil
			}
			break
		}
		b.handle(ctx, l)
	}
	b.group.Wait()
	b.writing.Lock()
	defer b.writing.Unlock()
	switch {
	case b.failed != nil:
		return fmt.Errorf("cannot write to stdout: %w", b.failed)
	case err != nil:
		return fmt.Errorf("cannot read from stdin: %w", err)
	}
	return nil
}

// line is one line of the input, or why there is none.
type line struct {
	text []byte
	err  error
}

// readLines reads to the end of in. A read cannot be interrupted: at the end of ctx
// it may go on until the process ends.
func readLines(ctx context.Context, in io.Reader, lines chan<- line) {
	f := &frames{r: bufio.NewReaderSize(in, 64<<10), max: maxFrame}
	for {
		text, err := f.next()
		select {
		case lines <- line{text, err}:
		case <-ctx.Done():
			return
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return
		}
	}
}

// received yields lines until ctx ends.
func received(ctx context.Context, lines <-chan line) func(yield func(line) bool) {
	return func(yield func(line) bool) {
		for {
			select {
			case l := <-lines:
				if !yield(l) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// handle passes a message on, or says what is wrong with it.
func (b *bridge) handle(ctx context.Context, l line) {
	if l.err != nil {
		id, fault := tooLong(l.text)
		b.fail(id, fault)
		return
	}
	m, id, fault := judge(l.text)
	switch {
	case fault != nil:
		b.fail(id, fault)
	case m == nil:
		// A response: the daemon asks nothing.
	case m.id == nil:
		// The daemon keeps no session that a notification could tell anything.
		if m.method == "notifications/cancelled" {
			b.cancel(m.params)
		}
	case m.method == "initialize":
		// What it agrees on is needed by those that follow.
		b.send(ctx, m, l.text)
	default:
		ctx, cancel := context.WithCancel(ctx)
		if fault := b.begin(m, cancel); fault != nil {
			cancel()
			b.fail(id, fault)
			return
		}
		b.group.Go(func() {
			defer b.end(m, cancel)
			b.send(ctx, m, l.text)
		})
	}
}

// begin takes the place of a request among those under way.
func (b *bridge) begin(m *message, cancel context.CancelFunc) *rpcError {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := string(m.id)
	switch {
	case b.running[key] != nil:
		return &rpcError{Code: rpcInvalidRequest, Message: "a request with this id is under way"}
	case len(b.running) >= maxRequests:
		return &rpcError{Code: rpcServerError, Message: fmt.Sprintf("%d requests are under way, as many as may be", maxRequests), Data: map[string]any{"error": "rate_limited"}}
	}
	b.running[key] = cancel
	return nil
}

func (b *bridge) end(m *message, cancel context.CancelFunc) {
	b.mu.Lock()
	delete(b.running, string(m.id))
	b.mu.Unlock()
	cancel()
}

// cancel ends the request that a notification names.
func (b *bridge) cancel(params json.RawMessage) {
	var p struct {
		RequestID json.RawMessage `json:"requestId"`
	}
	if json.Unmarshal(params, &p) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if cancel := b.running[string(p.RequestID)]; cancel != nil {
		cancel()
	}
}

// send asks the daemon. A request that was cancelled has no answer.
func (b *bridge) send(ctx context.Context, m *message, text []byte) {
	err := b.session.Send(ctx, text, func(answer json.RawMessage) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return b.write(answer)
	})
	if err == nil || ctx.Err() != nil {
		return
	}
	fault := &rpcError{Code: rpcServerError, Message: clean(err.Error())}
	var refused *client.Error
	switch {
	case errors.As(err, &refused):
		fault.Data = map[string]any{"error": string(refused.Code), "details": refused.Details}
	case errors.Is(err, client.ErrUnreachable):
		fault.Data = map[string]any{"hint": "start solod, or say where it is with --addr or $SOLO_ADDR"}
	}
	b.fail(m.id, fault)
}

// fail answers with an error.
func (b *bridge) fail(id json.RawMessage, fault *rpcError) {
	answer, err := json.Marshal(struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   *rpcError       `json:"error"`
	}{"2.0", id, fault})
	if err == nil {
		// That nobody reads is told at the end.
		_ = b.write(answer)
	}
}

// write writes a message as one line.
func (b *bridge) write(message json.RawMessage) error {
	var buf bytes.Buffer
	if err := json.Compact(&buf, message); err != nil {
		return err
	}
	buf.WriteByte('\n')
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.failed != nil {
		return b.failed
	}
	_, b.failed = b.out.Write(buf.Bytes())
	return b.failed
}
