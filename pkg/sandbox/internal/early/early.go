// Package early is the part of the sandbox that runs in processes of its own:
// the shim, which turns into the confined program, and the guard, which outlives
// the daemon by the moment that it takes to end what the daemon left behind.
//
// Both are the daemon's own binary under another first argument. They run from
// this package's init, and the package imports next to nothing, so that they are
// done before the rest of the binary is initialised. Go initialises, of the
// packages whose imports are ready, the one whose path is first: an import such as
// path/filepath puts this package behind all of google.golang.org, and makes each
// start of a service 1 ms longer.
// Any binary that links the package therefore answers to the two arguments.
package early

import "os"

// The first arguments that make a binary a shim or a guard.
const (
	ExecArg  = "sandbox-exec"
	GuardArg = "sandbox-guard"
)

func init() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case ExecArg:
		shim()
	case GuardArg:
		guard()
	}
}
