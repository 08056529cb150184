// Package store keeps records in one bbolt file.
//
// The nouns: a [DB] is an open file; a [Tx] is a transaction with one time of
// its own; a record is a value sealed by [Put] and read by [Get].
//
// What it promises:
//
//   - [DB.Update] returns once its change is durable. Changes that come while
//     another is being written share the next fsync: group commit, whose timer is
//     the disk itself. A function that fails is rolled back alone.
//   - A disk that is full, read-only or failing is a storage_unavailable error,
//     and the store works again when the disk does.
//   - A file that is locked, damaged, foreign, newer or emptied is refused when it
//     is opened, with what to do about it; it is never replaced by a new one.
package store
