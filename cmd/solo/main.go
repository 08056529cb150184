// Command solo is the command line of Solo: it asks a daemon, solod, over the
// unix socket or HTTP, and prints what it answers.
//
// The nouns are those of package client. The promises to a script:
// data goes to stdout and everything else to stderr; with -o json the data are
// the daemon's own bytes; the exit status is the verdict (see status.go); and
// nothing is coloured.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
