package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// maxBody is what a call may carry.
const maxBody = 8 << 20

func (a *app) invokeCommand() *cobra.Command {
	req := &solov1.InvokeRequest{}
	var timeout int64
	cmd := &cobra.Command{
		Use:   "invoke ID METHOD [BODY|-]",
		Short: "Call a method of a service and print its reply",
		Long: `Call a method of a service and print its reply byte for byte; on a terminal, a
newline is added where the reply has none. BODY is sent as it is; - sends stdin,
at most 8 MiB.`,
		Example: "  solo invoke echo Say '{\"text\": \"hello\"}'\n  solo invoke images Shrink - --content-type image/png < in.png > out.png",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ServiceId, req.Method = args[0], args[1]
			if len(args) == 3 {
				req.Body = []byte(args[2])
				if args[2] == "-" {
					var err error
					if req.Body, err = readInput(cmd.Context(), a.in, maxBody); err != nil {
						return fmt.Errorf("cannot read the body from stdin: %w", err)
					}
				}
			} else if !cmd.Flags().Changed("content-type") {
				req.ContentType = ""
			}
			if cmd.Flags().Changed("timeout-ms") {
				req.TimeoutMs = &timeout
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Invoke(cmd.Context(), req)
			if err != nil {
				return err
			}
			body := reply.GetBody()
			if terminal(a.out) && len(body) > 0 && !bytes.HasSuffix(body, []byte("\n")) {
				body = append(body, '\n')
			}
			return a.write(body)
		},
	}
	cmd.Flags().StringVar(&req.ContentType, "content-type", "application/json", "what the body is")
	cmd.Flags().Int64Var(&timeout, "timeout-ms", 0, "deadline of the call, at most 300000 (default 30000)")
	cmd.Flags().StringToStringVar(&req.Metadata, "meta", nil, "metadata for the service, as NAME=VALUE")
	return cmd
}

// readInput is readBounded until ctx ends: nothing else interrupts a read of a
// terminal, or of a pipe that nobody writes to. Then the read stays behind, and
// ends with the program.
func readInput(ctx context.Context, r io.Reader, max int64) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := readBounded(r, max)
		done <- result{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-done:
		return got.data, got.err
	}
}

// readBounded reads all of r, at most max bytes.
func readBounded(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("it has more than %d bytes", max)
	}
	return data, nil
}
