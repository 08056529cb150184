// Package engine holds the use cases, and is the only place where the rooms
// meet: compiler, supervisor, processes, event log, logs.
//
// The nouns: a record is what is stored of a service and of its versions; a slot
// is the right to deploy one id, held by at most one caller; the journal is how
// what happens to a service becomes a record and its events.
//
// What it promises:
//
//   - A change and its event are in one transaction, which is durable before the
//     caller is answered. No room, process or network is called inside one.
//   - The disk is never behind the processes: what should run changes on disk
//     before anything is ended, and a version is current on disk before calls
//     reach it.
//   - A deploy that fails leaves what was there before. A caller that goes away
//     cancels it, up to the transaction that makes it current.
//   - A boot tells the ends that nobody saw, each once, and starts exactly what
//     should run, without a compile, before the engine is ready.
package engine
