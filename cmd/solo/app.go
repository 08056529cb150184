package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/solo-run/solo/sdk/client"
)

// Where the daemon is looked for when nobody says.
const (
	defaultSocket = "data/solo.sock"
	defaultHTTP   = "http://127.0.0.1:8080"
)

// defaultAddr is the socket of a daemon that runs in this directory, else its
// default port.
func defaultAddr() string {
	if info, err := os.Stat(defaultSocket); err == nil && info.Mode()&os.ModeSocket != 0 {
		return "unix:./" + defaultSocket
	}
	return defaultHTTP
}

// app is one run of the program: its streams and what the flags say.
type app struct {
	in       io.Reader
	out, err io.Writer

	addr, tenant, token, format string

	// answer is the JSON of the last answer, as it came.
	answer json.RawMessage
	// started says that a command began, so that an error is no longer one of usage.
	started bool
}

// run runs the program and returns its exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	a := &app{in: in, out: out, err: errs}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		err = &usageError{cause: err, command: cmd.CommandPath()}
	}
	a.explain(err)
	return exitStatus(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "solo",
		Short: "Deploy, watch and call the services of a Solo daemon",
		Long: `solo asks a Solo daemon, solod, to compile, run and supervise Go programs.

Exit status: 0 done, 1 failed, 2 usage, 3 the source was refused, 4 not found,
5 denied, 6 timed out, 7 the daemon cannot be reached.`,
		Example:       "  solo deploy ./echo\n  solo invoke echo Say '\"hello\"'",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.format != "table" && a.format != "json" {
				return fmt.Errorf("-o is table or json, not %q", a.format)
			}
			a.started = true
			return nil
		},
		Run: func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.addr, "addr", "", "address of the daemon: http://…, https://… or unix:PATH\n($SOLO_ADDR; unix:./data/solo.sock where it exists, else http://127.0.0.1:8080)")
	flags.StringVar(&a.tenant, "tenant", "", "tenant ($SOLO_TENANT; default, where no token names one)\n\"\" is every tenant, in reads of the operator")
	flags.StringVar(&a.token, "token", "", "capability ($SOLO_TOKEN, which other users of the host do not see)")
	flags.StringVarP(&a.format, "output", "o", "table", "table, or json: the daemon's answer as it came")
	root.AddCommand(a.deployCommand(), a.checkCommand(), a.statusCommand(), a.listCommand(), a.killCommand(),
		a.restartCommand(), a.invokeCommand(), a.explainCommand(), a.crashesCommand(), a.waitCommand(), a.logsCommand(),
		a.eventsCommand(), a.treeCommand(), a.healthCommand(), a.usageCommand(), a.secretsCommand(), a.vaultCommand(), a.capCommand(),
		a.backupCommand(), a.restoreCommand(), a.doctorCommand(), a.upgradeCommand(), a.shutdownCommand(), a.mcpCommand(),
		a.versionCommand())
	return root
}

// client makes the client that the flags and the environment ask for.
func (a *app) client(cmd *cobra.Command) (*client.Client, error) {
	setting := func(flag, value, variable string) (string, bool) {
		if cmd.Flags().Changed(flag) {
			return value, true
		}
		value = os.Getenv(variable)
		return value, value != ""
	}
	addr, _ := setting("addr", a.addr, "SOLO_ADDR")
	if addr == "" {
		addr = defaultAddr()
	}
	token, _ := setting("token", a.token, "SOLO_TOKEN")
	tenant, named := setting("tenant", a.tenant, "SOLO_TENANT")
	// A token has a tenant of its own, which a default must not contradict.
	if !named && token == "" {
		tenant = "default"
	}
	c, err := client.New(addr,
		client.WithTenant(tenant),
		client.WithToken(token),
		client.WithTap(func(answer json.RawMessage) { a.answer = bytes.Clone(answer) }),
		client.WithReconnect(func(cause error, wait time.Duration) {
			a.say("%s; again in %v", clean(cause.Error()), wait.Round(100*time.Millisecond))
		}),
	)
	if err != nil {
		return nil, &usageError{cause: err, command: cmd.CommandPath()}
	}
	return c, nil
}

// print writes data to stdout: the answer as it came with -o json, else what
// table writes.
func (a *app) print(table func(w io.Writer)) error {
	var b bytes.Buffer
	if a.format == "json" {
		b.Write(bytes.TrimRight(a.answer, "\r\n"))
		b.WriteByte('\n')
	} else {
		table(&b)
	}
	return a.write(b.Bytes())
}

// printLine is print for one of many: with -o json, a line for each.
func (a *app) printLine(text func(w io.Writer)) error {
	if a.format != "json" {
		return a.print(text)
	}
	line, err := oneLine(a.answer)
	if err != nil {
		return err
	}
	return a.write(line)
}

// oneLine is JSON as it came but for its spaces, with an end of line.
func oneLine(data json.RawMessage) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// write writes data to stdout; a script must hear of what did not arrive.
func (a *app) write(data []byte) error {
	if _, err := a.out.Write(data); err != nil {
		return fmt.Errorf("cannot write to stdout: %w", err)
	}
	return nil
}

// say writes a message for people to stderr.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, "solo: "+format+"\n", args...)
}

// hint writes what to do next to stderr.
func (a *app) hint(format string, args ...any) {
	fmt.Fprintf(a.err, "hint: "+format+"\n", args...)
}

// waiting shows on a terminal that fn takes its time.
func (a *app) waiting(what string, fn func() error) error {
	if !terminal(a.err) {
		return fn()
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for began := time.Now(); ; {
			select {
			case <-done:
				fmt.Fprint(a.err, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(a.err, "\r%s … %ds", what, int(time.Since(began).Seconds()))
			}
		}
	}()
	err := fn()
	close(done)
	<-gone
	return err
}

// terminal reports whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// endOfFollowing is the verdict on a stream: who follows one ends it by an interrupt.
func endOfFollowing(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}
