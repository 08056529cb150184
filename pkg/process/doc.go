// Package process runs one instance of a service: from the start of its process,
// through the handshake and its calls, to the one reason of its end.
//
// The nouns: a [Spec] is what to run; a [Launcher] starts it; an [Instance] is
// the process, which has proved that it serves; an [Output] takes what it prints.
//
// What it promises:
//
//   - An Instance exists only for a process that has shaken hands, listens on its
//     own socket as its own user, and whose author's Start has returned. Of a start
//     that failed nothing is left, and its error tells how it ended.
//   - Nothing ambient reaches the process: its environment is what the contract,
//     section 7, names, the handshake, and its own.
//   - What it prints is its log, line by line, bounded in length and rate, and
//     complete when the process has ended, however it did.
//   - Its end has one reason, told by evidence: the wait status, the kernel's
//     counters, the trace it printed, or the order that ended it.
//   - [Instance.Stop] asks, then signals, then kills the whole group, by one
//     deadline, and returns when all of it is reaped.
//
// go-plugin keeps the handshake, and nothing else: it runs the process through
// our own runner, sees of its output the one line that it has to, and is never
// asked for a connection. Calls go over package wire.
package process
