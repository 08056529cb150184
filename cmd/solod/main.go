// Command solod is the daemon of Solo: it compiles, confines, supervises and
// serves what tenants post.
//
//	solod [--config FILE] [--print-config]
//
// Without --config, $SOLO_CONFIG names the file, else the built-in defaults hold.
// SIGHUP has it read the configuration again. It ends with status 0 after SIGTERM or SIGINT, 1 when it could not start or a
// part of it failed, 2 for arguments or a configuration that will not do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/solo-run/solo/pkg/daemon"
)

func main() {
	status := 1
	daemon.Main(func() { status = start() })
	os.Exit(status)
}

func start() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the daemon at once
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("solod", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", os.Getenv("SOLO_CONFIG"), "configuration `file` (TOML)")
	show := flags.Bool("print-config", false, "print the configuration and where each value came from, and end")
	version := flags.Bool("version", false, "print the version and end")
	offer := flags.Bool(daemon.HandoverFlag, false, "print what this binary can take over in an upgrade, and end")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "solod: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if *version {
		fmt.Fprintln(stdout, daemon.Version)
		return 0
	}
	cfg, err := daemon.Load(*file, os.Environ())
	if err != nil {
		fmt.Fprintln(stderr, "solod:", err)
		return 2
	}
	if *offer {
		if err := daemon.WriteOffer(stdout); err != nil {
			return 1
		}
		return 0
	}
	if *show {
		if err := cfg.Print(stdout); err != nil {
			fmt.Fprintln(stderr, "solod:", err)
			return 1
		}
		return 0
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	load := func() (*daemon.Config, error) { return daemon.Load(*file, os.Environ()) }
	if err := daemon.Run(ctx, cfg, daemon.Options{Reload: hangup, Load: load}); err != nil {
		fmt.Fprintln(stderr, "solod:", err)
		return 1
	}
	return 0
}
