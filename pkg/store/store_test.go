package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

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
