// Package failpoint names the moments at which the tests of crashes kill the
// daemon: between two steps of every operation that writes.
//
// A binary that is built without the tag failpoint has none of it: [Hit] is an
// empty function and [NoSync] is false. With the tag, $SOLO_FAILPOINT is NAME or
// NAME:N, and the process kills itself with SIGKILL when it comes to that place for
// the first, or N-th, time.
package failpoint

// Names are all places, in the words of the operation that passes them.
var Names = []string{
	"store.commit",      // a transaction is written, and nobody knows yet
	"artifact.summed",   // the sum of an artifact is there, its binary is not
	"artifact.named",    // the binary has its name
	"deploy.built",      // the artifact is stored, nothing runs yet
	"source.written",    // the source is on disk without its name
	"deploy.prepared",   // the candidate serves, the disk does not know
	"deploy.committed",  // the disk says that it runs, the supervisor does not know
	"start.recorded",    // a start is on disk, and nobody was told
	"end.recorded",      // a crash is on disk, and the next instance starts
	"kill.wanted",       // the kill is accepted on disk, nothing is killed yet
	"kill.recorded",     // the kill is done on disk, its caller waits
	"purge.forgotten",   // the records are gone, the files are not
	"answer.unkept",     // what was asked is done, its answer is not kept
	"retain.checkpoint", // the log begins later, what was cut is still there
	"retain.batch",      // a part of what was cut is gone
	"compact.written",   // the new store is whole, the old one has the name
	"compact.renamed",   // the new store has the name, and is not open
	"backup.linked",     // the files of a backup are linked, nothing is sent
	"upgrade.held",      // nobody is let in
	"upgrade.frozen",    // the supervision stands still
	"upgrade.execed",    // the new binary runs, and has opened nothing
	"upgrade.opened",    // the new binary has opened all, and adopted nothing
	"rotate.sealed",     // the keyring is sealed by the old key and the new one
	"rotate.renamed",    // the new key has the name, the keyring knows both
	"rotate.rewrap",     // a batch of data keys is to be wrapped anew
	"rotate.rewrapped",  // all are, and the old term is still known
}
