package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	solod "github.com/solo-run/solo/pkg/daemon"
	"github.com/solo-run/solo/sdk/client"
)

// defaultData is the data directory of a daemon that was told nothing.
const defaultData = "./data"

func (a *app) backupCommand() *cobra.Command {
	var withKey bool
	cmd := &cobra.Command{
		Use:   "backup [FILE]",
		Short: "Take a consistent copy of the running daemon",
		Long: `Take a consistent copy of the running daemon: its event log and state, sources,
artifacts, logs and sealed secrets, as a tar. FILE is solo-backup-TIME.tar by default,
or - for stdout. What is written to a file is read back and proved. The vault's key is
left out, unless --with-key asks for it: keep it elsewhere. Only the operator may.`,
		Example: "  solo backup\n  solo backup - | ssh other 'cat > solo.tar'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "solo-backup-" + time.Now().UTC().Format("20060102-150405") + ".tar"
			if len(args) == 1 {
				name = args[0]
			}
			return a.ask(cmd, func(c *client.Client) error {
				if name == "-" {
					_, err := c.Backup(cmd.Context(), withKey, a.out)
					return err
				}
				return a.backupTo(cmd, c, withKey, name)
			})
		},
	}
	cmd.Flags().BoolVar(&withKey, "with-key", false, "put the vault's key file into it: who has the backup then has every secret")
	return cmd
}

// backupTo writes beside the file and gives it its name once it is proved.
func (a *app) backupTo(cmd *cobra.Command, c *client.Client, withKey bool, name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	err = a.waiting("taking a backup", func() error {
		_, err := c.Backup(cmd.Context(), withKey, f)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read the backup back: %w", err)
	}
	m, err := solod.VerifyBackup(f)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	return a.printManifest(name, m)
}

func (a *app) printManifest(name string, m *solod.Manifest) (err error) {
	if a.answer, err = json.Marshal(struct {
		Name string `json:"name"`
		*solod.Manifest
	}{name, m}); err != nil {
		return err
	}
	return a.print(func(w io.Writer) {
		table(w, []string{"backup", name}, []string{"taken", m.CreatedAt.Format(time.RFC3339)}, []string{"files", strconv.Itoa(m.Files)},
			[]string{"size", fmt.Sprintf("%.1f MiB", mib(uint64(m.Bytes)))}, []string{"events", fmt.Sprintf("%d to %d, proved: %s", m.Events.FirstID, m.Events.LastID, yesNo(m.Events.OK))})
	})
}

func (a *app) restoreCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a data directory of a backup",
		Long: `Make a data directory of a backup, without a daemon. The directory must be empty
or not there yet. Every file is checked and the log is proved; if anything is
wrong, nothing is left.`,
		Example: "  solo restore solo-backup.tar --data /var/lib/solo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := a.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("cannot read the backup: %w", err)
				}
				defer f.Close()
				in = f
			}
			m, err := solod.Restore(cmd.Context(), in, data)
			if err != nil {
				return err
			}
			return a.printManifest(data, m)
		},
	}
	cmd.Flags().StringVar(&data, "data", defaultData, "the data `directory` to make")
	return cmd
}

func (a *app) doctorCommand() *cobra.Command {
	var data, salvage string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host and a data directory for what is wrong",
		Long: `Look at this host and at a data directory, without a daemon, and say what is wrong
and what to do. Nothing is changed. The exit status is 1 where something fails.

With --salvage, what the event log of a stopped daemon holds before its damage is
saved into a new data directory, with all that can still be read.`,
		Example: "  solo doctor --data /var/lib/solo\n  solo doctor --data ./data --salvage ./saved",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if salvage != "" {
				report, err := solod.Salvage(cmd.Context(), data, salvage)
				if err != nil {
					return err
				}
				if a.answer, err = json.Marshal(report); err != nil {
					return err
				}
				return a.print(func(w io.Writer) {
					rows := [][]string{{"saved", salvage}, {"events", fmt.Sprintf("%d to %d", report.FirstID, report.LastID)}}
					if report.BadID != nil {
						rows = append(rows, []string{"damaged from", strconv.FormatUint(*report.BadID, 10)})
					}
					table(w, rows...)
				})
			}
			findings := solod.Doctor(cmd.Context(), data)
			var err error
			if a.answer, err = json.Marshal(map[string]any{"findings": findings}); err != nil {
				return err
			}
			err = a.print(func(w io.Writer) {
				for _, f := range findings {
					fmt.Fprintf(w, "%-4s  %s: %s\n", f.Status, clean(f.Check), clean(f.Detail))
					if f.Advice != "" && f.Status != solod.StatusOK {
						fmt.Fprintf(w, "      → %s\n", clean(f.Advice))
					}
				}
			})
			if err != nil {
				return err
			}
			failed := 0
			for _, f := range findings {
				if f.Status == solod.StatusFail {
					failed++
				}
			}
			if failed > 0 {
				return verdictError(fmt.Sprintf("%d of %d checks failed", failed, len(findings)))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", defaultData, "the data `directory` to look into")
	cmd.Flags().StringVar(&salvage, "salvage", "", "save what can be saved into this new `directory`")
	return cmd
}
