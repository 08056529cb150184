package store

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
)

// Schema is the version of the layout of all buckets together.
const Schema = 1

var (
	bucketMeta = []byte("solo")
	keySchema  = []byte("schema")
	keyID      = []byte("id")
)

// Own reports whether a bucket is the store's own, and no room's.
func Own(bucket []byte) bool { return string(bucket) == string(bucketMeta) }

// Options tune [Open]; the zero value is right.
type Options struct {
	// OpenFile opens the file in the place of os.OpenFile, for tests of a failing
	// disk.
	OpenFile func(string, int, os.FileMode) (*os.File, error)
	// ReadOnly opens a file that nobody writes to, such as a backup.
	ReadOnly bool
}

// DB is an open store. Its methods may be called by many goroutines at once.
type DB struct {
	path  string
	opts  Options
	fault atomic.Pointer[error]

	// writing is held by whoever changes the file, swap shared by whoever uses bolt:
	// a compaction puts another file in its place.
	writing sync.Mutex
	swap    sync.RWMutex
	bolt    *bbolt.DB

	mu      sync.Mutex
	queue   []*change
	leading bool
	last    time.Time
}

// lockTime is how long Open waits for the lock of the file.
const lockTime = time.Second

// Open opens or makes the store at path; its directory is made, 0700. The error
// names the file and says what to do.
func Open(path string, opts Options) (*DB, error) {
	if !opts.ReadOnly {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the directory of the store: %w", err)
		}
	}
	if !opts.ReadOnly {
		// A compaction that a crash has ended left the old file as it was.
		if err := os.Remove(path + compactSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot remove a compaction that was not finished: %w", err)
		}
	}
	marker := path + ".initialised"
	fresh, err := checkFile(path, marker)
	if err != nil {
		return nil, err
	}
	db := &DB{path: path, opts: opts}
	if !fresh {
		if err := checkWhole(path, opts); err != nil {
			return nil, describe(path, err)
		}
	}
	if fresh && !opts.ReadOnly {
		if err := create(path, opts); err != nil {
			return nil, describe(path, err)
		}
	}
	if db.bolt, err = openBolt(path, opts); err != nil {
		return nil, describe(path, err)
	}
	id, err := db.prepare(opts.ReadOnly)
	if err == nil && !opts.ReadOnly {
		err = checkMarker(path, marker, id, fresh)
	}
	if err != nil {
		db.bolt.Close()
		return nil, err
	}
	return db, nil
}

// checkFile tells whether there is no store yet, and refuses to begin a new one
// where there was one.
func checkFile(path, marker string) (fresh bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return false, fmt.Errorf("cannot open the store %s: it is not a regular file", path)
	case err == nil && info.Size() > 0:
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("cannot open the store: %w", err)
	}
	if _, err := os.Lstat(marker); err == nil {
		return false, fmt.Errorf("cannot open the store %s: it was in use and is now empty or gone; put back a backup, or remove %s to begin with an empty one", path, marker)
	}
	return true, nil
}

// checkMarker holds a store against the id that its place knows: one that was
// brought here from elsewhere is not what this place has acknowledged. The marker
// of a new store is written.
func checkMarker(path, marker, id string, fresh bool) error {
	known, err := os.ReadFile(marker)
	switch {
	case err == nil && strings.TrimSpace(string(known)) == id:
		return nil
	case err == nil && len(known) > 0 && !fresh:
		return fmt.Errorf("cannot open the store %s: it is the store of another place; put back this one's or a backup of it, or remove %s to go on with the one that is here", path, marker)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot read the mark of the store: %w", err)
	}
	if err := writeMarker(marker, id); err != nil {
		return fmt.Errorf("cannot mark the store as in use: %w", err)
	}
	return nil
}

// create makes an empty store, whole or not at all: a power cut in the middle must
// not leave what the next start takes for damage.
func create(path string, opts Options) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := openBolt(tmp, opts)
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// writeMarker makes the marker whole or not at all, and not before the store's own
// name is durable: half of it, or it alone, would have the next start refused.
func writeMarker(marker, id string) error {
	dir, tmp := filepath.Dir(marker), marker+".new"
	if err := SyncDir(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(id + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, marker); err != nil {
		return err
	}
	return SyncDir(dir)
}

// openBolt turns the panics of bbolt over a damaged file into errors.
func openBolt(path string, opts Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTime, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		InitialMmapSize: 64 << 20, OpenFile: opts.OpenFile, ReadOnly: opts.ReadOnly, NoSync: failpoint.NoSync,
	})
}

func describe(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("cannot open the store %s: another process has it", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("cannot open the store %s: it is not a store, or it is damaged; put back a backup: %w", path, err)
	case errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("cannot open the store %s: its file format is another one: %w", path, err)
	}
	return fmt.Errorf("cannot open the store %s: %w", path, err)
}

// checkWhole refuses a file that is shorter than it says of itself. It opens it
// for reading first: to open it for writing is to read all of it.
func checkWhole(path string, opts Options) error {
	opts.ReadOnly, opts.OpenFile = true, nil
	bolt, err := openBolt(path, opts)
	if err != nil {
		return err
	}
	defer bolt.Close()
	return bolt.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("the file is cut off: %d bytes of %d are there; put back a backup", info.Size(), tx.Size())
		}
		return nil
	})
}

// prepare checks that the file is ours and returns its id; a new file becomes a
// store.
func (db *DB) prepare(readOnly bool) (id string, err error) {
	var found uint64
	empty := true
	err = db.View(func(tx *Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			if v := b.Get(keySchema); len(v) == 8 {
				found = binary.BigEndian.Uint64(v)
			}
			id = hex.EncodeToString(b.Get(keyID))
		}
		k, _ := tx.Cursor().First()
		empty = k == nil
		return nil
	})
	switch {
	case err != nil:
		return "", describe(db.path, err)
	case found == Schema && (id != "" || readOnly):
		return id, nil
	case found > Schema:
		return "", fmt.Errorf("cannot open the store %s: a newer solod wrote it (schema %d, this one knows %d); use that one", db.path, found, Schema)
	case readOnly, !empty && found != Schema:
		return "", fmt.Errorf("cannot open the store %s: it is a bbolt file, but not one of Solo's", db.path)
	}
	name := make([]byte, 16)
	rand.Read(name)
	return hex.EncodeToString(name), db.Update(func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if err := b.Put(keyID, name); err != nil {
			return err
		}
		return b.Put(keySchema, binary.BigEndian.AppendUint64(nil, Schema))
	})
}

// Close ends the store; changes under way are finished first.
func (db *DB) Close() error {
	db.writing.Lock()
	defer db.writing.Unlock()
	db.swap.Lock()
	defer db.swap.Unlock()
	return db.bolt.Close()
}

// compactSuffix names the copy of a compaction under way; one that a crash has
// left is removed by the next.
const compactSuffix = ".compact"

// compactStep is how much one transaction of a compaction copies.
const compactStep = 16 << 20

// Compact writes the store anew without its free pages and puts that in the place
// of the file. Changes wait meanwhile; reads go on but for the moment of the
// exchange. It needs room for the copy; if it fails, nothing has changed.
func (db *DB) Compact() error {
	db.writing.Lock()
	defer db.writing.Unlock()
	tmp := db.path + compactSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot compact the store: %w", err)
	}
	defer os.Remove(tmp)
	fresh, err := openBolt(tmp, db.opts)
	if err != nil {
		return fmt.Errorf("cannot compact the store: %w", err)
	}
	err = bbolt.Compact(fresh, db.bolt, compactStep)
	if err == nil {
		err = fresh.Sync()
	}
	if cerr := fresh.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot compact the store: %w", err)
	}
	failpoint.Hit("compact.written")
	db.swap.Lock()
	defer db.swap.Unlock()
	if err := os.Rename(tmp, db.path); err != nil {
		return fmt.Errorf("cannot compact the store: %w", err)
	}
	failpoint.Hit("compact.renamed")
	// Until the new name is durable, a power cut brings the old file back, without
	// what is written from now on.
	err = SyncDir(filepath.Dir(db.path))
	if err == nil {
		fresh, err = openBolt(db.path, db.opts)
	}
	if err != nil {
		// The old file has no name any more, and all that it holds is in the new one:
		// nothing may be written to either.
		fault := error(solo.StorageError("the store cannot be used after its compaction", err))
		db.fault.Store(&fault)
		db.bolt.Close()
		return fault
	}
	old := db.bolt
	db.bolt = fresh
	return old.Close()
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Healthy returns what the last change met on the disk, nil for nothing.
func (db *DB) Healthy() error {
	if err := db.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// Size returns how large the file is and how much of it is free for what comes,
// in bytes.
func (db *DB) Size() (size, free int64) {
	db.View(func(tx *Tx) error {
		size, free = tx.Size(), int64(tx.DB().Stats().FreeAlloc)
		return nil
	})
	return size, free
}

// Snapshot writes a copy of the store as it stands to a new file.
func (db *DB) Snapshot(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot copy the store: %w", err)
	}
	defer f.Close()
	err = db.View(func(tx *Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot copy the store: %w", err)
	}
	return nil
}

// Tx is one transaction. Now is its time: UTC, and never before that of an
// earlier change, as far as this process lives.
type Tx struct {
	*bbolt.Tx
	Now   time.Time
	hooks []func()
}

// OnCommit calls f once, after the change is durable and before Update returns;
// those of a change that was rolled back are not called.
func (tx *Tx) OnCommit(f func()) { tx.hooks = append(tx.hooks, f) }

// View runs a function that only reads. Keep it short: a long one makes the file
// grow.
func (db *DB) View(fn func(*Tx) error) (err error) {
	// A file that is cut off under its mapping is a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(p)
			db.fault.Store(&err)
		}
	}()
	db.swap.RLock()
	defer db.swap.RUnlock()
	return db.bolt.View(func(tx *bbolt.Tx) error { return fn(&Tx{Tx: tx, Now: time.Now().UTC()}) })
}

// change is one call of Update that waits for its turn.
type change struct {
	fn    func(*Tx) error
	err   error
	panic any
	// wake gets true where the change has to lead the next commit, false when it is
	// decided.
	wake chan bool
}

// maxBatch bounds how many changes share a commit.
const maxBatch = 1024

// Update runs fn in a transaction and returns once it is durable. fn may be run
// more than once, so it only touches the transaction and assigns to variables;
// if it returns an error, only its own change is undone. A failing disk is a
// storage_unavailable error.
func (db *DB) Update(fn func(*Tx) error) error {
	c := &change{fn: fn, wake: make(chan bool, 1)}
	db.mu.Lock()
	db.queue = append(db.queue, c)
	lead := !db.leading
	db.leading = true
	db.mu.Unlock()
	if !lead {
		lead = <-c.wake
	}
	if lead {
		db.lead()
	}
	if c.panic != nil {
		panic(c.panic)
	}
	return c.err
}

// lead commits the batch at the head of the queue, in which the caller's own
// change is, and hands the lead over.
func (db *DB) lead() {
	db.mu.Lock()
	n := min(len(db.queue), maxBatch)
	batch := db.queue[:n:n]
	db.queue = db.queue[n:]
	db.mu.Unlock()

	db.commit(batch)

	db.mu.Lock()
	if len(db.queue) > 0 {
		db.queue[0].wake <- true
	} else {
		db.leading = false
		db.queue = nil
	}
	db.mu.Unlock()
	for _, c := range batch[1:] {
		c.wake <- false
	}
}

// errRollback undoes a transaction in which one change failed.
var errRollback = errors.New("rolled back")

// commit decides every change of the batch.
func (db *DB) commit(batch []*change) {
	for len(batch) > 0 {
		var hooks []func()
		failed := -1
		err := db.transaction(func(tx *bbolt.Tx) error {
			hooks, failed = nil, -1
			now := db.now()
			for i, c := range batch {
				t := &Tx{Tx: tx, Now: now}
				if !c.run(t) {
					failed = i
					return errRollback
				}
				hooks = append(hooks, t.hooks...)
			}
			return nil
		})
		if failed >= 0 && errors.Is(err, errRollback) {
			batch = append(append(make([]*change, 0, len(batch)-1), batch[:failed]...), batch[failed+1:]...)
			continue
		}
		if err != nil {
			fault := unavailable(err)
			db.fault.Store(&fault)
			for _, c := range batch {
				c.err = fault
			}
			return
		}
		db.fault.Store(nil)
		failpoint.Hit("store.commit")
		for _, hook := range hooks {
			hook()
		}
		return
	}
}

// transaction is bbolt's Update without its panics: they mean damage.
func (db *DB) transaction(fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(p)
		}
	}()
	db.writing.Lock()
	defer db.writing.Unlock()
	return db.bolt.Update(fn)
}

// run reports whether the change went through; a panic is its caller's, but for
// a fault of the file's memory.
func (c *change) run(tx *Tx) (ok bool) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		ok = false
		if _, fault := p.(interface{ Addr() uintptr }); fault {
			c.err = damaged(p)
			return
		}
		c.panic = p
	}()
	c.err = c.fn(tx)
	return c.err == nil
}

// now is called by the leader only.
func (db *DB) now() time.Time {
	now := time.Now().UTC()
	if !now.After(db.last) {
		now = db.last
	}
	db.last = now
	return now
}

func damaged(p any) error {
	return solo.Errorf(solo.CodeStorageUnavailable, "the store is damaged: put back a backup").Because(fmt.Errorf("%v", p))
}

func unavailable(err error) error {
	if told := (*solo.Error)(nil); errors.As(err, &told) {
		return told
	}
	what := "nothing can be stored"
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		what += ": the store is closed"
	}
	return solo.StorageError(what, err)
}
