package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/solo-run/solo/sdk/client"
	"github.com/solo-run/solo/sdk/token"
)

func askedFlags(flags *pflag.FlagSet, a *client.CapabilityAsked, ttl string) {
	flags.StringVar(&a.Resource, "resource", "", "what it is good for, such as services/echo, services/* or **")
	flags.StringSliceVar(&a.Permissions, "permissions", nil, "read, deploy, kill, invoke, write, grant, admin; with commas between")
	flags.StringSliceVar(&a.Methods, "methods", nil, "methods of a service that may be called (default all)")
	flags.DurationVar(&a.TTL, "ttl", 0, "how long it counts, in whole seconds"+ttl)
	flags.IntVar(&a.RateLimit, "rate-limit", 0, "requests a minute (default the daemon's)")
}

// ownToken is the token that a command is about: an argument -, which is stdin, or
// the one that the client shows.
func (a *app) ownToken(cmd *cobra.Command, args []string) (string, error) {
	if len(args) > 0 {
		if args[0] != "-" {
			return "", &usageError{cause: errors.New("a token does not stand on a command line, where others can see it: give - and write it to stdin, or set SOLO_TOKEN"), command: cmd.CommandPath()}
		}
		text, err := readInput(cmd.Context(), a.in, token.MaxText)
		if err != nil {
			return "", fmt.Errorf("cannot read the token from stdin: %w", err)
		}
		return string(bytes.TrimSpace(text)), nil
	}
	if cmd.Flags().Changed("token") {
		return a.token, nil
	}
	if t := os.Getenv("SOLO_TOKEN"); t != "" {
		return t, nil
	}
	return "", &usageError{cause: errors.New("there is no token: set SOLO_TOKEN, or give - and write it to stdin"), command: cmd.CommandPath()}
}

func (a *app) capCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cap",
		Short:   "Grant, narrow, check, list and revoke capabilities",
		Example: "  solo cap list",
		Args:    cobra.NoArgs,
		Run:     func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(a.capGrant(), a.capAttenuate(), a.capVerify(), a.capRevoke(), a.capList())
	return cmd
}

// printGrant prints the token alone, for scripts, and says beside it what it is.
func (a *app) printGrant(tok string, c client.Capability) error {
	if a.format != "json" {
		fmt.Fprintf(a.err, "capability %s: %s on %s until %s; the token is shown this once\n", clean(c.ID), clean(strings.Join(c.Permissions, ", ")),
			clean(c.Resource), c.ExpiresAt.Format(time.RFC3339))
	}
	return a.print(func(w io.Writer) { fmt.Fprintln(w, tok) })
}

func (a *app) capGrant() *cobra.Command {
	var asked client.CapabilityAsked
	cmd := &cobra.Command{
		Use:   "grant",
		Short: "Grant a capability and print its token",
		Long: `Grant a capability and print its token, which is shown this once and kept nowhere. It
is within what the caller holds.`,
		Example: "  solo cap grant --resource 'services/*' --permissions read,invoke --ttl 24h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				g, err := c.Grant(cmd.Context(), asked)
				if err != nil {
					return err
				}
				return a.printGrant(g.Token, g.Capability)
			})
		},
	}
	askedFlags(cmd.Flags(), &asked, " (default 1h)")
	_ = cmd.MarkFlagRequired("resource")
	_ = cmd.MarkFlagRequired("permissions")
	return cmd
}

func (a *app) capAttenuate() *cobra.Command {
	var asked client.CapabilityAsked
	var record bool
	cmd := &cobra.Command{
		Use:   "attenuate [-]",
		Short: "Narrow a token without asking the daemon",
		Long: `Narrow a token, SOLO_TOKEN or the one on stdin, without asking the daemon, and print
what comes of it: it never allows more, and ends with the token that it was made of.
With --record the daemon is asked to record it, so that it can be revoked by itself.`,
		Example: "  solo cap attenuate --resource services/echo --permissions invoke --ttl 10m",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if record {
				return a.ask(cmd, func(c *client.Client) error {
					g, err := c.AttenuateRecorded(cmd.Context(), asked)
					if err != nil {
						return err
					}
					return a.printGrant(g.Token, g.Capability)
				})
			}
			tok, err := a.ownToken(cmd, args)
			if err != nil {
				return err
			}
			out, err := client.Attenuate(tok, asked)
			if errors.Is(err, token.ErrWider) {
				return &deniedError{err}
			}
			if err != nil {
				return err
			}
			if a.answer, err = json.Marshal(map[string]string{"token": out}); err != nil {
				return err
			}
			return a.print(func(w io.Writer) { fmt.Fprintln(w, out) })
		},
	}
	askedFlags(cmd.Flags(), &asked, " (default the token's)")
	cmd.Flags().BoolVar(&record, "record", false, "have the daemon record it")
	return cmd
}

func (a *app) capVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify RESOURCE PERMISSION [-]",
		Short: "Say whether a token allows something",
		Long: `Say whether a token, SOLO_TOKEN or the one on stdin, allows something. The exit status
is 0 where it does and 5 where it does not.`,
		Example: "  solo cap verify services/echo invoke",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			tok, err := a.ownToken(cmd, args[2:])
			if err != nil {
				return err
			}
			return a.ask(cmd, func(c *client.Client) error {
				allowed, reason, err := c.VerifyCapability(cmd.Context(), tok, args[0], args[1])
				if err != nil {
					return err
				}
				if err := a.print(func(w io.Writer) { fmt.Fprintln(w, clean(reason)) }); err != nil || allowed {
					return err
				}
				return &deniedError{errors.New("it is not allowed")}
			})
		},
	}
}

func (a *app) capRevoke() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a capability and all that was derived from it",
		Example: "  solo cap revoke wA3…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				revoked, err := c.RevokeCapability(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) { fmt.Fprintf(w, "%d revoked\n", len(revoked)) })
			})
		},
	}
}

func (a *app) capList() *cobra.Command {
	var limit, offset int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the capabilities that are recorded, oldest first",
		Example: "  solo cap list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				l, err := c.Capabilities(cmd.Context(), limit, offset)
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) {
					rows := [][]string{{"ID", "RESOURCE", "PERMISSIONS", "EXPIRES", "STATE"}}
					for _, one := range l.Capabilities {
						state := "counts"
						if one.Revoked {
							state = "revoked"
						} else if time.Now().After(one.ExpiresAt) {
							state = "expired"
						}
						rows = append(rows, []string{one.ID, one.Resource, strings.Join(one.Permissions, ","), one.ExpiresAt.Format(time.RFC3339), state})
					}
					table(w, rows...)
				})
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	cmd.Flags().IntVar(&offset, "offset", 0, "leave out so many")
	return cmd
}
