package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

// ask runs a call with a client of its own.
func (a *app) ask(cmd *cobra.Command, call func(c *client.Client) error) error {
	c, err := a.client(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	return call(c)
}

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain ID",
		Short: "Say why a service is in its state",
		Long: `Say why a service is in its state: the chain of events that led there, what the
daemon does next by itself, and the calls that would change it.`,
		Example: "  solo explain echo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				x, err := c.Explain(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) { explanation(w, x) })
			})
		},
	}
}

func explanation(w io.Writer, x *solov1.Explanation) {
	fmt.Fprintf(w, "%s: %s\n%s\n\n", clean(x.GetServiceId()), clean(x.GetState()), clean(x.GetSummary()))
	next := x.GetNext().GetAction()
	if x.GetNext().GetAt() != nil {
		next += " at " + formatTime(x.GetNext().GetAt())
	}
	if why := x.GetNext().GetWhy(); why != "" {
		next += ": " + why
	}
	b := x.GetBudget()
	table(w, []string{"next", clean(next)},
		[]string{"budget", fmt.Sprintf("%d of %d restarts within %d s, %d in a row", b.GetUsed(), b.GetMaxRestarts(), b.GetMaxSeconds(), b.GetInRow())})
	fmt.Fprintln(w, "\nhow it came to this, each event the cause of the next:")
	for _, e := range x.GetChain() {
		fmt.Fprintf(w, "  %d %s %s\n", e.GetId(), formatTime(e.GetTimestamp()), clean(e.GetEventType()))
	}
	if tail := x.GetLastExit().GetLogTail(); len(tail) > 0 {
		fmt.Fprintf(w, "\nlast exit: %s\n", exitWords(x.GetLastExit()))
		for _, line := range tail {
			fmt.Fprintf(w, "  | %s\n", clean(line))
		}
	}
	fmt.Fprintln(w, "\nwhat would change it:")
	rows := make([][]string, 0, len(x.GetCalls()))
	for _, call := range x.GetCalls() {
		rows = append(rows, []string{"  " + clean(call.GetCommand()), clean(call.GetEffect())})
	}
	table(w, rows...)
}

func (a *app) crashesCommand() *cobra.Command {
	req := &solov1.CrashesRequest{}
	cmd := &cobra.Command{
		Use:   "crashes ID",
		Short: "Show the last crashes of a service, oldest first",
		Long: `Show the last crashes of a service, oldest first, each with its exit, the panic's
own lines, the last log lines and what it used before the end.`,
		Example: "  solo crashes echo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ServiceId = args[0]
			return a.ask(cmd, func(c *client.Client) error {
				list, err := c.Crashes(cmd.Context(), req)
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) {
					if len(list.GetCrashes()) == 0 {
						fmt.Fprintln(w, "no crashes")
					}
					for _, crash := range list.GetCrashes() {
						crashText(w, crash)
					}
				})
			})
		},
	}
	cmd.Flags().Int32Var(&req.Limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	cmd.Flags().Int32Var(&req.Offset, "offset", 0, "leave out so many")
	return cmd
}

func crashText(w io.Writer, c *solov1.Crash) {
	fmt.Fprintf(w, "%s version %d, instance %d: %s\n", formatTime(c.GetAt()), c.GetVersion(), c.GetInstance(), exitWords(c.GetLastExit()))
	if p := c.GetPanic(); p != nil {
		fmt.Fprintf(w, "  panic: %s\n", clean(p.GetMessage()))
		for _, f := range p.GetStack() {
			fmt.Fprintf(w, "    %s:%d: %s\n", clean(f.GetFile()), f.GetLine(), clean(f.GetFunction()))
		}
	}
	if curve := c.GetUsageCurve(); len(curve) > 0 {
		last := curve[len(curve)-1]
		fmt.Fprintf(w, "  memory at the end: %.1f MiB (peak), cpu %v, %d samples\n", mib(last.GetMemoryBytes()),
			(time.Duration(last.GetCpuUsec()) * time.Microsecond).Round(time.Millisecond), len(curve))
	}
	for _, line := range c.GetLogTail() {
		fmt.Fprintf(w, "  | %s\n", clean(line))
	}
}

func (a *app) waitCommand() *cobra.Command {
	var state, event, match string
	var version, timeout int32
	var since uint64
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait until a service is in a state, or something of it happened",
		Long: `Wait until all that is asked for holds at once. The exit status is 6 where it did
not come in time; the state that was reached is told.`,
		Example: "  solo wait echo --state running\n  solo wait echo --event service_crashed --timeout-ms 60000\n  solo wait echo --log 'listening on'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			until := &solov1.WaitUntil{}
			req := &solov1.WaitRequest{ServiceId: &args[0], Until: until}
			for name, set := range map[string]func(){
				"state": func() { until.State = &state }, "event": func() { until.EventType = &event }, "log": func() { until.LogMatch = &match },
				"version": func() { until.Version = &version }, "since-id": func() { req.SinceId = &since }, "timeout-ms": func() { req.TimeoutMs = &timeout },
			} {
				if cmd.Flags().Changed(name) {
					set()
				}
			}
			return a.ask(cmd, func(c *client.Client) error {
				var result *solov1.WaitResult
				err := a.waiting("waiting for "+args[0], func() (err error) {
					result, err = c.Wait(cmd.Context(), req)
					return err
				})
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) {
					s := result.GetService()
					rows := [][]string{
						{"service", s.GetServiceId()}, {"state", s.GetState()}, {"version", strconv.Itoa(int(s.GetVersion()))},
						{"waited", (time.Duration(result.GetWaitedMs()) * time.Millisecond).String()},
					}
					table(w, rows...)
					if result.GetEvent() != nil {
						eventLine(w, result.GetEvent())
					}
					if result.GetLog() != nil {
						logLine(w, result.GetLog())
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "until it is in this state")
	cmd.Flags().Int32Var(&version, "version", 0, "until this version is current")
	cmd.Flags().StringVar(&event, "event", "", "until an event of this type happened")
	cmd.Flags().StringVar(&match, "log", "", "until the present instance wrote a line that holds this text, or matches it")
	cmd.Flags().Uint64Var(&since, "since-id", 0, "events count after this id (default: from now on)")
	cmd.Flags().Int32Var(&timeout, "timeout-ms", 0, "give up after this time (default 30000)")
	return cmd
}

func (a *app) treeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "tree",
		Short:   "Show what runs, as a tree",
		Example: "  solo tree --tenant ''",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				root, err := c.Tree(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) { treeNode(w, root, "", "") })
			})
		},
	}
}

func treeNode(w io.Writer, n *solov1.TreeNode, lead, below string) {
	words := []string{clean(n.GetName()), "[" + clean(n.GetKind()) + ", " + clean(n.GetStrategy()) + "]", clean(n.GetState())}
	if n.GetRestarts() > 0 {
		words = append(words, fmt.Sprintf("%d restarts", n.GetRestarts()))
	}
	if n.GetDetail() != "" {
		words = append(words, clean(n.GetDetail()))
	}
	fmt.Fprintf(w, "%s%s\n", lead, strings.Join(words, "  "))
	for i, child := range n.GetChildren() {
		if i == len(n.GetChildren())-1 {
			treeNode(w, child, below+"└─ ", below+"   ")
		} else {
			treeNode(w, child, below+"├─ ", below+"│  ")
		}
	}
}
