package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	solod "github.com/solo-run/solo/pkg/daemon"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

const maxPage = 1000

func (a *app) logsCommand() *cobra.Command {
	var n int32
	var follow bool
	req := &solov1.LogsRequest{}
	cmd := &cobra.Command{
		Use:   "logs [ID]",
		Short: "Show what services wrote",
		Long: `Show the last lines that services wrote, and with -f what they write from then on,
until an interrupt. With -o json and -f, each line is a JSON object on a line.`,
		Example: "  solo logs echo -n 20 -f\n  solo logs --level error",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n > maxPage || n < 0 || n == 0 && !follow {
				return &usageError{cause: fmt.Errorf("-n is from 1 to %d, or 0 with -f, not %d", maxPage, n), command: cmd.CommandPath()}
			}
			if len(args) == 1 {
				req.ServiceId = args[0]
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if n > 0 {
				last := proto.CloneOf(req)
				last.Limit, last.Tail = n, true
				page, err := c.Logs(cmd.Context(), last)
				if err != nil {
					return err
				}
				if err := a.printPage(page.GetLogs(), follow); err != nil || !follow {
					return err
				}
				req.SinceId = proto.Uint64(page.GetNextSinceId())
			}
			return a.follow(cmd, lines(c.WatchLogs(cmd.Context(), req), logLine))
		},
	}
	cmd.Flags().Int32VarP(&n, "lines", "n", 100, "the last so many lines")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVar(&req.Level, "level", "", "the least severe level: debug, info, warn or error")
	cmd.Flags().StringVar(&req.Text, "text", "", "only lines that hold this")
	cmd.Flags().Int32Var(&req.Instance, "instance", 0, "only those of this instance")
	return cmd
}

// printPage prints the lines of a page: as the page with -o json, or, where more
// follow, each in a line of its own.
func (a *app) printPage(logs []*solov1.LogLine, follow bool) error {
	if a.format != "json" || !follow {
		return a.print(func(w io.Writer) {
			for _, l := range logs {
				logLine(w, l)
			}
		})
	}
	var page struct {
		Logs []json.RawMessage `json:"logs"`
	}
	if err := json.Unmarshal(a.answer, &page); err != nil {
		return fmt.Errorf("cannot read the answer: %w", err)
	}
	var out []byte
	for _, record := range page.Logs {
		line, err := oneLine(record)
		if err != nil {
			return err
		}
		out = append(out, line...)
	}
	return a.write(out)
}

// lines turns records into what writes each as a line.
func lines[T any](records iter.Seq2[T, error], line func(io.Writer, T)) iter.Seq2[func(io.Writer), error] {
	return func(yield func(func(io.Writer), error) bool) {
		for r, err := range records {
			if !yield(func(w io.Writer) { line(w, r) }, err) {
				return
			}
		}
	}
}

// follow prints each record as it comes.
func (a *app) follow(cmd *cobra.Command, records iter.Seq2[func(io.Writer), error]) error {
	for record, err := range records {
		var gap *client.Gap
		switch {
		case errors.As(err, &gap):
			a.say("%v", gap)
			continue
		case err != nil:
			return endOfFollowing(cmd.Context(), err)
		}
		if err := a.printLine(record); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var since uint64
	req := &solov1.WatchRequest{}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show the event log",
		Long: `Show a page of the event log, from the first event or from --since-id on; with -f
what comes from now on or after --since-id, until an interrupt. With -o json and
-f, each event is a JSON object on a line.`,
		Example: "  solo events --service echo\n  solo events -f --type service_crashed",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("since-id") {
				req.SinceId = &since
			}
			if follow && cmd.Flags().Changed("limit") {
				return &usageError{cause: errors.New("-f has no end, so --limit cannot bound it"), command: cmd.CommandPath()}
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if follow {
				return a.follow(cmd, lines(c.WatchEvents(cmd.Context(), req), eventLine))
			}
			page, err := c.Events(cmd.Context(), req)
			if err != nil {
				return err
			}
			err = a.print(func(w io.Writer) {
				for _, e := range page.GetEvents() {
					eventLine(w, e)
				}
			})
			if err == nil && page.GetNextSinceId() < page.GetLastId() {
				a.hint("more with --since-id %d", page.GetNextSinceId())
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().Uint64Var(&since, "since-id", 0, "only what follows this id")
	cmd.Flags().StringVar(&req.ServiceId, "service", "", "only those of this service")
	cmd.Flags().StringVar(&req.EventType, "type", "", "only those of this type")
	cmd.Flags().Int32Var(&req.Limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	cmd.AddCommand(a.verifyCommand())
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove the hash chain of the event log",
		Long: "Have the daemon prove the hash chain of its event log, or prove that of a data\n" +
			"directory that no daemon has open, such as a backup. The exit status is 1 where\nit does not hold.",
		Example: "  solo events verify\n  solo events verify --data /backup/solo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var report *solov1.VerifyReport
			err := a.waiting("verifying", func() (err error) {
				if data != "" {
					report, err = a.verifyData(cmd.Context(), data)
					return err
				}
				c, err := a.client(cmd)
				if err != nil {
					return err
				}
				defer c.Close()
				report, err = c.VerifyEvents(cmd.Context())
				return err
			})
			if err != nil {
				return err
			}
			err = a.print(func(w io.Writer) {
				table(w, []string{"ok", yesNo(report.GetOk())},
					[]string{"events", fmt.Sprintf("%d to %d", report.GetFirstId(), report.GetLastId())},
					[]string{"head", report.GetHead()})
			})
			if err == nil && !report.GetOk() {
				return verdictError(fmt.Sprintf("the chain does not hold: event %d is not what was written", report.GetBadId()))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "a data `directory` to prove without a daemon")
	return cmd
}

// verifyData proves the log of a data directory and keeps the answer as the daemon
// would give it.
func (a *app) verifyData(ctx context.Context, dir string) (*solov1.VerifyReport, error) {
	r, err := solod.VerifyData(ctx, dir)
	if err != nil {
		return nil, err
	}
	if a.answer, err = json.Marshal(r); err != nil {
		return nil, err
	}
	return &solov1.VerifyReport{Ok: r.OK, FirstId: r.FirstID, LastId: r.LastID, Head: r.Head, BadId: r.BadID}, nil
}
