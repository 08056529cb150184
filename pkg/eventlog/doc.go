// Package eventlog is the one history of the daemon: numbered, chained, never
// rewritten.
//
// The nouns: an event is one record of the log; the head is the newest one's id
// and hash; a cursor is an id that a reader has come to; a page is what follows
// a cursor.
//
// What it promises:
//
//   - Ids are 1, 2, 3 … without a gap, over the whole log and after any crash: an
//     id is given inside the transaction of the change that the event records.
//   - Each event's hash covers the hash of the one before, its id and its bytes
//     as they are stored: [Log.Verify] proves that none was changed or removed.
//   - A subscription is a cursor. Readers read pages and wait on a wake-up that
//     carries nothing, so that a slow one costs nothing and loses nothing.
//   - Reads go through indexes by tenant, service and type, and are bounded.
//
// # A record
//
// All numbers are big-endian. The fields that filters need stand before the
// payload, so that none is decoded in vain:
//
//	1  format, 1
//	8  time, nanoseconds since 1970, UTC
//	8  causation id, 0 for none
//	1  length of the type
//	1  length of the tenant
//	2  length of the subject
//	4  length of the payload
//	…  type, tenant, subject, payload (a JSON object)
//	32 SHA-256 over the hash before (32 zero bytes for the first), the id (8
//	   bytes), and all of the above
package eventlog
