// Package logs keeps what services wrote, in files outside bbolt.
//
// The nouns: a line is one record with an id; a segment is a file of lines, named
// by the id of its first; a [Writer] writes the lines of one instance.
//
// What it promises:
//
//   - Ids are the microseconds since 1970 at which a line came, made unique and
//     increasing over the whole store: one cursor works over services, instances
//     and restarts, and a line's time is its id.
//   - A line is with the operating system when [Writer.Line] returns, so that it
//     outlives a kill -9 of the daemon. A disk that fails costs lines, counted,
//     and never blocks a service for long.
//   - What a service keeps is bounded in bytes: the oldest segment goes first.
//   - A record that was torn is skipped, and hurts no other.
//
// A line is stored as one line of JSON, so that an operator can read the files.
package logs
