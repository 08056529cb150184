package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/solo-run/solo/sdk/client"
)

// maxSecret is the most that a secret may have.
const maxSecret = 1 << 20

// secretInput reads what must not stand on a command line: stdin byte for byte, or a
// line that is typed unseen.
func (a *app) secretInput(cmd *cobra.Command, prompt string) ([]byte, error) {
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(a.err, prompt+": ")
		value, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.err)
		if err != nil {
			return nil, fmt.Errorf("cannot read from the terminal: %w", err)
		}
		return value, nil
	}
	value, err := readInput(cmd.Context(), a.in, maxSecret)
	if err != nil {
		return nil, fmt.Errorf("cannot read the value from stdin: %w", err)
	}
	return value, nil
}

// keyFile reads a caller's own key from a file, "" for none.
func keyFile(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the encryption key: %w", err)
	}
	return string(bytes.TrimRight(text, "\r\n")), nil
}

func (a *app) secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "secrets",
		Short:   "Store, read, list and revoke secrets",
		Example: "  solo secrets list",
		Args:    cobra.NoArgs,
		Run:     func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	var file string
	set := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a secret, or its next version",
		Long: `Store a secret, or its next version. The value comes from stdin, every byte kept, or
from a prompt on a terminal; never from the command line, which others can see.`,
		Example: "  solo secrets set license < license.bin",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := keyFile(file)
			if err != nil {
				return err
			}
			value, err := a.secretInput(cmd, "value of "+args[0])
			if err != nil {
				return err
			}
			return a.ask(cmd, func(c *client.Client) error {
				s, err := c.SetSecret(cmd.Context(), args[0], value, key)
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) { fmt.Fprintf(w, "%s version %d\n", s.Key, s.Version) })
			})
		},
	}
	set.Flags().StringVar(&file, "encryption-key-file", "", "file with a key of your own, without which nobody reads the value again")
	var info bool
	get := &cobra.Command{
		Use:   "get NAME",
		Short: "Print the value of a secret",
		Long: `Print the value of a secret byte for byte; on a terminal, a newline is added where it
has none. The log tells who had it. With --info, its version and age instead.`,
		Example: "  solo secrets get upstream-token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := keyFile(file)
			if err != nil {
				return err
			}
			return a.ask(cmd, func(c *client.Client) error {
				if info {
					s, err := c.Secret(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					return a.print(func(w io.Writer) {
						table(w, []string{"key", s.Key}, []string{"version", strconv.Itoa(s.Version)}, []string{"created", s.CreatedAt.Format(time.RFC3339)}, []string{"locked", yesNo(s.Locked)})
					})
				}
				value, err := c.RevealSecret(cmd.Context(), args[0], key)
				if err != nil {
					return err
				}
				if a.format == "json" {
					return a.print(nil)
				}
				if terminal(a.out) && !bytes.HasSuffix(value, []byte("\n")) {
					value = append(value, '\n')
				}
				return a.write(value)
			})
		},
	}
	get.Flags().BoolVar(&info, "info", false, "show version and age, and not the value")
	get.Flags().StringVar(&file, "encryption-key-file", "", "file with the key that the secret is locked by")
	var limit, offset int
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the names of the secrets",
		Example: "  solo secrets list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				l, err := c.Secrets(cmd.Context(), limit, offset)
				if err != nil {
					return err
				}
				return a.print(func(w io.Writer) {
					for _, name := range l.Secrets {
						fmt.Fprintln(w, clean(name))
					}
				})
			})
		},
	}
	list.Flags().IntVar(&limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	list.Flags().IntVar(&offset, "offset", 0, "leave out so many")
	rm := &cobra.Command{
		Use:     "rm NAME",
		Short:   "Revoke a secret: its data key is shredded",
		Example: "  solo secrets rm upstream-token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd, func(c *client.Client) error {
				if err := c.RevokeSecret(cmd.Context(), args[0]); err != nil {
					return err
				}
				return a.print(func(w io.Writer) { fmt.Fprintf(w, "%s is revoked\n", args[0]) })
			})
		},
	}
	cmd.AddCommand(set, get, list, rm)
	return cmd
}

func (a *app) vaultCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "vault",
		Short:   "Unlock the vault, or change its key",
		Example: "  solo vault rotate",
		Args:    cobra.NoArgs,
		Run:     func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	status := func(s *client.VaultStatus) error {
		return a.print(func(w io.Writer) {
			table(w, []string{"vault", s.Status}, []string{"key source", s.Source}, []string{"term", strconv.Itoa(s.Term)},
				[]string{"wrapped anew", strconv.Itoa(s.Rewrapped)})
		})
	}
	unlock := &cobra.Command{
		Use:   "unlock",
		Short: "Give the vault its passphrase",
		Long: `Give the vault its passphrase, from a prompt or stdin; the first one that is given
becomes the vault's. Only the operator may.`,
		Example: "  solo vault unlock",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			passphrase, err := a.secretInput(cmd, "passphrase")
			if err != nil {
				return err
			}
			return a.ask(cmd, func(c *client.Client) error {
				s, err := c.UnlockVault(cmd.Context(), strings.TrimRight(string(passphrase), "\r\n"))
				if err != nil {
					return err
				}
				return status(s)
			})
		},
	}
	var change bool
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Change the master key and wrap every data key anew",
		Long: `Change the master key and wrap every data key anew. Services and tokens go on. With
key_source "file" the key file is another one afterwards: keep a copy of it. Only the
operator may.`,
		Example: "  solo vault rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			passphrase := ""
			if change {
				text, err := a.secretInput(cmd, "new passphrase")
				if err != nil {
					return err
				}
				passphrase = strings.TrimRight(string(text), "\r\n")
			}
			return a.ask(cmd, func(c *client.Client) error {
				s, err := c.RotateVault(cmd.Context(), passphrase)
				if err != nil {
					return err
				}
				return status(s)
			})
		},
	}
	rotate.Flags().BoolVar(&change, "passphrase", false, "ask for a new passphrase too")
	cmd.AddCommand(unlock, rotate)
	return cmd
}
