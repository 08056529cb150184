// Package supervisor keeps services running, each by its own policy, and meets
// every call with the instance that serves it.
//
// The nouns: a [Plan] is what to run and by which policy; an [Instance] is one
// process of it; a [Unit] is one service with the goroutine that owns it; a
// [Candidate] is an instance that has proved that it serves and is not yet
// anybody's; a [Change] is what happened to a unit.
//
// What it promises:
//
//   - One goroutine owns one unit. Commands, ends of processes, timers and probes
//     reach it as messages; each carries the attempt that it belongs to, so that a
//     late one is told from a current one.
//   - Every command is valid in every state and is answered.
//   - What happens next is [Decide], a pure function of policy, history, exit and
//     time. Budgets are per unit: no unit's end touches another.
//   - Every change is handed to the [Journal]. One that a caller waits for is
//     durable before the caller is answered; one that the journal refuses is kept,
//     in order, and offered again.
//   - Readers and callers take no lock and wait for nobody: they read a snapshot.
//
// It knows neither processes nor disks: it declares the small interfaces that it
// needs ([Launcher], [Instance], [Journal]), which the engine fills.
package supervisor
