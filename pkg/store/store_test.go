package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

func open(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

var bucket = []byte("test")

func put(key, value string) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	}
}

func get(t *testing.T, db *store.DB, key string) string {
	t.Helper()
	var out string
	err := db.View(func(tx *store.Tx) error {
		if b := tx.Bucket(bucket); b != nil {
			out = string(b.Get([]byte(key)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChangesThatWaitShareACommit(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	var commits sync.Map
	first := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	var group sync.WaitGroup
	group.Go(func() {
		db.Update(func(tx *store.Tx) error {
			once.Do(func() { close(first); <-release })
			return nil
		})
	})
	<-first
	const n = 200
	var queued sync.WaitGroup
	for i := range n {
		queued.Add(1)
		group.Go(func() {
			queued.Done()
			err := db.Update(func(tx *store.Tx) error {
				commits.Store(tx.ID(), true)
				return put(fmt.Sprint(i), "x")(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	queued.Wait()
	close(release)
	group.Wait()
	count := 0
	commits.Range(func(any, any) bool { count++; return true })
	// How many made it into the queue before the first commit ended is the
	// scheduler's; that most of them shared commits is ours.
	if count > n/4 {
		t.Errorf("%d changes took %d commits", n, count)
	}
	for i := range n {
		if get(t, db, fmt.Sprint(i)) != "x" {
			t.Errorf("change %d is lost", i)
		}
	}
}

func TestAChangeThatFailsIsUndoneAlone(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	bad := errors.New("no")
	var group sync.WaitGroup
	var failed, hooks atomic.Int32
	for i := range 100 {
		group.Go(func() {
			err := db.Update(func(tx *store.Tx) error {
				tx.OnCommit(func() { hooks.Add(1) })
				if err := put(fmt.Sprint(i), "x")(tx); err != nil {
					return err
				}
				if i%3 == 0 {
					return bad
				}
				return nil
			})
			if errors.Is(err, bad) {
				failed.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if failed.Load() != 34 || hooks.Load() != 66 {
		t.Errorf("%d failed and %d hooks ran, want 34 and 66", failed.Load(), hooks.Load())
	}
	for i := range 100 {
		want := "x"
		if i%3 == 0 {
			want = ""
		}
		if got := get(t, db, fmt.Sprint(i)); got != want {
			t.Errorf("key %d = %q, want %q", i, got, want)
		}
	}
}

func TestAPanicIsItsCallersAlone(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v", p)
			}
		}()
		db.Update(func(tx *store.Tx) error {
			if err := put("a", "x")(tx); err != nil {
				return err
			}
			panic("boom")
		})
	}()
	if err := db.Update(put("b", "y")); err != nil {
		t.Fatal(err)
	}
	if get(t, db, "a") != "" || get(t, db, "b") != "y" {
		t.Errorf("a = %q, b = %q", get(t, db, "a"), get(t, db, "b"))
	}
}

func TestOpenRefusesWithAdvice(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, path string)
		want []string
	}{
		{"locked", func(t *testing.T, path string) { open(t, path) }, []string{"another process has it"}},
		{"garbage", func(t *testing.T, path string) {
			os.WriteFile(path, []byte(strings.Repeat("garbage ", 4096)), 0o600)
		}, []string{"damaged", "backup"}},
		{"truncated", func(t *testing.T, path string) {
			db := open(t, path)
			for i := range 50 {
				if err := db.Update(put(fmt.Sprint(i), strings.Repeat("x", 10000))); err != nil {
					t.Fatal(err)
				}
			}
			db.Close()
			if err := os.Truncate(path, 4096); err != nil {
				t.Fatal(err)
			}
		}, []string{"cannot open the store"}},
		{"half of it", func(t *testing.T, path string) {
			db := open(t, path)
			for i := range 50 {
				if err := db.Update(put(fmt.Sprint(i), strings.Repeat("x", 10000))); err != nil {
					t.Fatal(err)
				}
			}
			db.Close()
			if err := os.Truncate(path, 128<<10); err != nil {
				t.Fatal(err)
			}
		}, []string{"cut off", "backup"}},
		{"replaced", func(t *testing.T, path string) {
			open(t, path).Close()
			other := filepath.Join(t.TempDir(), "other")
			open(t, other).Close()
			if err := os.Rename(other, path); err != nil {
				t.Fatal(err)
			}
		}, []string{"of another place", "backup", ".initialised"}},
		{"emptied", func(t *testing.T, path string) {
			open(t, path).Close()
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, []string{"empty or gone", "backup"}},
		{"removed", func(t *testing.T, path string) {
			open(t, path).Close()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, []string{"empty or gone", ".initialised"}},
		{"foreign", func(t *testing.T, path string) {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
			db.Close()
		}, []string{"not one of Solo's"}},
		{"newer", func(t *testing.T, path string) {
			db := open(t, path)
			err := db.Update(func(tx *store.Tx) error {
				return tx.Bucket([]byte("solo")).Put([]byte("schema"), binary.BigEndian.AppendUint64(nil, 99))
			})
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		}, []string{"a newer solod wrote it", "99"}},
		{"a directory", func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, []string{"not a regular file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			tc.make(t, path)
			db, err := store.Open(path, store.Options{})
			if err == nil {
				db.Close()
				t.Fatal("it was opened")
			}
			for _, want := range append(tc.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

func TestCompactionLosesNothingAndStopsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	for i := range 400 {
		if err := db.Update(put(fmt.Sprint(i), strings.Repeat("x", 50_000))); err != nil {
			t.Fatal(err)
		}
	}
	err := db.Update(func(tx *store.Tx) error {
		for i := 20; i < 400; i++ {
			if err := tx.Bucket(bucket).Delete([]byte(fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A copy that a crash has left is in nobody's way.
	if err := os.WriteFile(path+".compact", []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := db.Size()
	quit := make(chan struct{})
	var group sync.WaitGroup
	var written atomic.Int64
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				n := written.Add(1)
				if err := db.Update(put(fmt.Sprint("w", n), fmt.Sprint(n))); err != nil {
					t.Error(err)
					return
				}
				if got := get(t, db, "7"); len(got) != 50_000 {
					t.Errorf("a read has %d bytes", len(got))
					return
				}
			}
		})
	}
	for range 5 {
		if err := db.Compact(); err != nil {
			t.Fatal(err)
		}
	}
	close(quit)
	group.Wait()
	after, _ := db.Size()
	if after > before/4 {
		t.Errorf("the store has %d bytes, before %d", after, before)
	}
	check := func(db *store.DB) {
		t.Helper()
		for n := int64(1); n <= written.Load(); n++ {
			if got := get(t, db, fmt.Sprint("w", n)); got != fmt.Sprint(n) {
				t.Fatalf("w%d is %q", n, got)
			}
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	check(again)
	if _, err := os.Stat(path + ".compact"); err == nil {
		t.Error("the copy is left")
	}
}

// A file may also be cut off under an open store.
func TestATruncatedStoreIsAnErrorAndNoCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	for i := range 50 {
		if err := db.Update(put(fmt.Sprint(i), strings.Repeat("x", 10000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(path, 16<<10); err != nil {
		t.Fatal(err)
	}
	all := func(tx *store.Tx) error {
		n := 0
		return tx.Bucket(bucket).ForEach(func(_, v []byte) error {
			for _, b := range v {
				n += int(b)
			}
			return nil
		})
	}
	for name, err := range map[string]error{"a read": db.View(all), "a change": db.Update(all)} {
		if told := solo.AsError(err); told.Code != solo.CodeStorageUnavailable || !strings.Contains(told.Message, "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if db.Healthy() == nil {
		t.Error("it says that it is healthy")
	}
}

func TestAFlippedBitIsFoundAndNamed(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	type record struct{ A string }
	err := db.Update(func(tx *store.Tx) error {
		b, err := tx.CreateBucket(bucket)
		if err != nil {
			return err
		}
		if err := store.Put(b, []byte("good"), record{"x"}); err != nil {
			return err
		}
		raw := append([]byte(nil), b.Get([]byte("good"))...)
		for i := range raw {
			flipped := append([]byte(nil), raw...)
			flipped[i] ^= 1
			if err := b.Put([]byte("good"), flipped); err != nil {
				return err
			}
			var r record
			if err := store.Get(b, []byte("good"), &r); err == nil || !strings.Contains(err.Error(), `"good" is damaged`) {
				t.Errorf("byte %d flipped: %v", i, err)
			}
		}
		var r record
		if err := store.Get(b, []byte("none"), &r); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a record that is not there: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "db")
	open(t, path)
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", p, got, want)
		}
	}
}

// small mounts a file system of 24 MB for the test: bbolt grows in steps of 16.
func small(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system; the tests run as root in CI")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=700"); err != nil {
		t.Skipf("this host does not let root mount a tmpfs (%v); CI does", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullDiskIsToldAndRecoveredFrom(t *testing.T) {
	dir := small(t)
	db := open(t, filepath.Join(dir, "db"))
	acknowledged := 0
	var err error
	for ; acknowledged < 10000; acknowledged++ {
		if err = db.Update(put(fmt.Sprint("k", acknowledged), strings.Repeat("x", 8192))); err != nil {
			break
		}
	}
	if solo.CodeOf(err) != solo.CodeStorageUnavailable || !strings.Contains(err.Error(), "full") {
		t.Fatalf("after %d changes: %v", acknowledged, err)
	}
	if db.Healthy() == nil {
		t.Error("the store says that it is well")
	}
	// Reading goes on, and so does refusing what has no room: more than pages that
	// were given back could hold.
	if err := db.Update(put("more", strings.Repeat("x", 8<<20))); solo.CodeOf(err) != solo.CodeStorageUnavailable {
		t.Errorf("the next change: %v", err)
	}
	for i := range acknowledged {
		if len(get(t, db, fmt.Sprint("k", i))) != 8192 {
			t.Fatalf("the acknowledged change %d is lost", i)
		}
	}
	// With room it works again, and what was acknowledged is there after a restart.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(put("after", "y")); err != nil {
		t.Fatalf("with room: %v", err)
	}
	if err := db.Healthy(); err != nil {
		t.Errorf("with room: %v", err)
	}
	db.Close()
	db = open(t, filepath.Join(dir, "db"))
	if get(t, db, "after") != "y" || len(get(t, db, fmt.Sprint("k", acknowledged-1))) != 8192 || get(t, db, "more") != "" {
		t.Error("after a restart something is lost or made up")
	}
}

// A write that fails at any point is told, loses nothing that was acknowledged,
// and is over when the disk works again.
func TestADiskThatFailsAtTheNthCall(t *testing.T) {
	for n := range 12 {
		path := filepath.Join(t.TempDir(), "db")
		db := open(t, path)
		for i := range 5 {
			if err := db.Update(put(fmt.Sprint("k", i), strings.Repeat("x", 3000))); err != nil {
				t.Fatal(err)
			}
		}
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		// The kernel refuses what would be written past this place: with each n
		// another of the writes of a commit.
		signal.Ignore(syscall.SIGXFSZ)
		low := limit
		low.Cur = uint64(max(4096, info.Size()/12*int64(n)))
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
			t.Fatal(err)
		}
		failed := db.Update(put("big", strings.Repeat("z", int(info.Size())*2)))
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		if solo.CodeOf(failed) != solo.CodeStorageUnavailable {
			t.Errorf("limit %d: %v", low.Cur, failed)
		}
		if err := db.Update(put("after", "y")); err != nil {
			t.Errorf("limit %d, afterwards: %v", low.Cur, err)
		}
		db.Close()
		db = open(t, path)
		for i := range 5 {
			if len(get(t, db, fmt.Sprint("k", i))) != 3000 {
				t.Errorf("limit %d: the acknowledged change %d is lost", low.Cur, i)
			}
		}
		if get(t, db, "after") != "y" || get(t, db, "big") != "" {
			t.Errorf("limit %d: something is lost or made up", low.Cur)
		}
		db.Close()
	}
}
