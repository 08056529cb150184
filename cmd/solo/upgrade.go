package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

// upgradeTime is how long a new daemon may take to be there.
const upgradeTime = time.Minute

func (a *app) upgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade [BINARY]",
		Short: "Put another binary in the running daemon's place",
		Long: `Put another binary in the running daemon's place, under the same pid: services keep
their processes, their memory and their logs, and callers wait for a moment.
BINARY is the one that is installed where the running one was, by default. A
binary that will not do, or does not come up, leaves the old one serving.`,
		Example: "  solo upgrade\n  solo upgrade ./bin/solod",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			binary := ""
			if len(args) == 1 {
				var err error
				if binary, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			// The daemon's own events belong to no tenant.
			if err := cmd.Flags().Set("tenant", ""); err != nil {
				return err
			}
			return a.ask(cmd, func(c *client.Client) error {
				text, err := c.Upgrade(cmd.Context(), binary)
				if err != nil {
					return err
				}
				var begun struct {
					From    string `json:"from"`
					To      string `json:"to"`
					SinceID uint64 `json:"since_id"`
				}
				if err := json.Unmarshal(text, &begun); err != nil {
					return fmt.Errorf("cannot read the answer: %w", err)
				}
				err = a.waiting("upgrading", func() error { return untilStarted(cmd.Context(), c, begun.SinceID) })
				if err != nil {
					return err
				}
				a.answer = text
				return a.print(func(w io.Writer) { table(w, []string{"from", begun.From}, []string{"to", begun.To}) })
			})
		},
	}
}

// lostTime is how long the daemon may be out of reach meanwhile.
const lostTime = 10 * time.Second

// untilStarted waits for the word of the new daemon.
func untilStarted(ctx context.Context, c *client.Client, since uint64) error {
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	seen := time.Now()
	for ctx.Err() == nil {
		page, err := c.Events(ctx, &solov1.WatchRequest{SinceId: proto.Uint64(since), EventType: "system_started", Limit: 1})
		if err == nil && len(page.GetEvents()) > 0 {
			return nil
		}
		switch {
		case err == nil:
			seen = time.Now()
		case !errors.Is(err, client.ErrUnreachable), time.Since(seen) > lostTime:
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return errors.New("the new daemon has not come up; the old one serves, and its log says why")
}
