// Package sandbox starts programs confined and ends them whole.
//
// The nouns: a [Host] is what this machine offers, probed once; a [Command] is
// what to run and within which [Limits]; a [Proc] is one program with all that it
// forks; a [Status] is how it ended, by the kernel's word.
//
// What holds for every Proc:
//
//   - Nothing ambient reaches it: its environment, arguments, descriptors (0, 1
//     and 2), working directory, signal dispositions, umask and keyring are those
//     of the Command. It is in its cgroups before its first instruction.
//   - It ends with the daemon, whatever it ignores: the kernel sends it SIGKILL
//     when the thread that forked it ends, and the guard, a process that does
//     nothing but wait for the daemon's death, ends what the program had forked.
//     Only [Host.Sweep] is left to the next daemon, for where the guard died too.
//   - [Proc.Done] closes once the program is reaped and its group is empty.
//
// A layer that the host lacks is off with the reason in [Host.Layers]; with
// Isolation "strict" [Open] refuses such a host.
//
// Two mechanisms stand behind one interface for cgroups: v1, with each
// controller mounted by itself and a v2 mount beside them for tracking where there
// is one, and v2 alone. Linux 5.14 and later only.
//
// A program that links this package is a shim when its only argument is
// "sandbox-exec" and a guard when it is "sandbox-guard".
package sandbox

import (
	"os"
	"syscall"
	"time"
)

// The values of [Config.Isolation].
const (
	IsolationStrict = "strict"
	IsolationAuto   = "auto"
	IsolationNone   = "none"
)

// Config says for whom a [Host] works. ID and Boot are required.
type Config struct {
	// ID stands for the data directory: 12 hex digits. Names of cgroups and run
	// directories and the range of uids come from it. No two daemons that run at
	// once may share one: each would sweep the other away.
	ID string
	// Boot is random for each start of the daemon: 8 hex digits.
	Boot string
	// RunRoot holds the run directories. "" is /run/solo for root, else solo in
	// $XDG_RUNTIME_DIR, else solo-UID in the directory for temporary files.
	RunRoot string
	// Isolation is one of the constants; "" is auto.
	Isolation string
	// Exe is the binary that serves as shim and guard. "" is the running one,
	// also after its file has been replaced.
	Exe string
	// Adopt is what a former daemon has handed over to this process; nil is a boot of
	// its own. ID and Boot are those of the handover then.
	Adopt *Handover
	// StateDir remembers which cgroups were made, for [Host.Sweep]. "" remembers
	// nothing: Sweep then looks only where this boot would make its own.
	StateDir string
}

// Command is one program to run.
type Command struct {
	// Name is unique among the commands of a boot that have not been released:
	// 1 to 40 bytes of [a-z0-9-]. It names the group.
	Name string
	// Path is the binary. It is opened by the daemon and executed by descriptor, so
	// the program's user needs the right to execute it but not to reach it.
	Path string
	// Binary is used in the place of Path where it is set: the same open file
	// whose content was checked. It stays the caller's.
	Binary *os.File
	// Args are all arguments, that of the program's own name included.
	Args []string
	// Env is the whole environment.
	Env []string
	// Dir is the working directory.
	Dir string
	// Stdout and Stderr stay the caller's, who closes its copies after Start; nil is
	// /dev/null. Stdin always is.
	Stdout, Stderr *os.File
	Limits         Limits
	// OwnDirs are directories that are given to the program's user.
	OwnDirs []string
	// Binds are shown to the program, and to it alone. They need the layer
	// "mounts".
	Binds []Bind
	// Build runs the program as the user that all builds of this daemon share, so
	// that they can share a cache; others get a user that nobody else has.
	Build bool
}

// Bind shows the directory Source at the directory Target, both absolute.
type Bind struct {
	Source, Target string
}

// Limits bounds a [Proc] with all that it forks; 0 is no bound, but for OpenFiles.
type Limits struct {
	MemoryBytes int64
	// CPUPercent 100 is one core.
	CPUPercent int
	// PIDs counts threads.
	PIDs int
	// FileBytes bounds each file that is written.
	FileBytes int64
	// OpenFiles is per process; 0 is 8192.
	OpenFiles int
}

// Status is how a program ended. Code is -1 where a signal ended it, Signal is
// 0 where none did.
type Status struct {
	Code   int
	Signal syscall.Signal
	// OOM: the kernel's count of kills for want of memory in this group is not
	// zero and SIGKILL ended the program.
	OOM bool
	// OOMKills is that count: what the program forked is in it too.
	OOMKills uint64
	// Peak and Limit are bytes of memory; Limit 0 is none that was enforced.
	Peak, Limit uint64
	CPU         time.Duration
	Ran         time.Duration
	// PIDsMax is how often a fork was refused by the limit.
	PIDsMax uint64
}
