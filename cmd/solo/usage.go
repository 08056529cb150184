package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/solo-run/solo/sdk/client"
)

func (a *app) usageCommand() *cobra.Command {
	var from, to, by string
	var q client.UsageQuery
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Say what tenants or services have used",
		Long: `Say what was used in a span of whole hours: CPU time, memory over time, calls and
their bytes, builds. The last 30 days where no span is given. What is older than 35
days counts by whole days.`,
		Example: "  solo usage --by service\n  solo usage --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			for _, at := range []struct {
				flag, text string
				out        *time.Time
			}{{"from", from, &q.From}, {"to", to, &q.To}} {
				if at.text == "" {
					continue
				}
				if *at.out, err = time.Parse(time.RFC3339, at.text); err != nil {
					return &usageError{cause: fmt.Errorf("--%s must be a time such as 2026-01-02T15:04:05Z", at.flag), command: cmd.CommandPath()}
				}
			}
			if by != "tenant" && by != "service" {
				return &usageError{cause: fmt.Errorf("--by must be tenant or service"), command: cmd.CommandPath()}
			}
			q.ByService = by == "service"
			return a.ask(cmd, func(c *client.Client) error {
				report, err := c.Usage(cmd.Context(), q)
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) { usageTable(w, report) })
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "not before this time of RFC 3339, in whole hours (default 30 days ago)")
	cmd.Flags().StringVar(&to, "to", "", "before this time (default now)")
	cmd.Flags().StringVar(&by, "by", "tenant", "a row for each tenant, or each service")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	cmd.Flags().IntVar(&q.Offset, "offset", 0, "leave out so many")
	return cmd
}

func usageTable(w io.Writer, report *client.UsageReport) {
	rows := [][]string{{"TENANT", "SERVICE", "CPU S", "MEMORY MB S", "CALLS", "MB IN", "MB OUT", "BUILDS", "BUILD S"}}
	for _, r := range report.Usage {
		service := "-"
		if r.ServiceID != nil {
			service = *r.ServiceID
		}
		decimal := func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
		rows = append(rows, []string{
			r.TenantID, service, decimal(r.CPUSeconds), decimal(r.MemoryMBSeconds), strconv.FormatUint(r.Calls, 10),
			decimal(mib(r.BytesIn)), decimal(mib(r.BytesOut)), strconv.FormatUint(r.Builds, 10), decimal(r.BuildSeconds),
		})
	}
	table(w, rows...)
	fmt.Fprintf(w, "%s to %s\n", report.From.Format(time.RFC3339), report.To.Format(time.RFC3339))
}
