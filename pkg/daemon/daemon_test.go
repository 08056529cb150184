package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/gateway/grpc"
	"github.com/solo-run/solo/pkg/gateway/rest"
)

func TestOneDaemonADataDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory is %v, %v", info, err)
	}
	if _, err := takeLock(dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := takeLock(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again.Close()
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if l, err := takeLock(dir); err == nil {
		l.Close()
		t.Error("a link was followed")
	}
}

func TestALockThatIsAboutToBeFreeIsWaitedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	// As a child does between its fork and its exec.
	time.AfterFunc(lockTime/10, func() { first.Close() })
	second, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestDataDirectoriesThatAreRefused(t *testing.T) {
	used := func(t *testing.T, dir string) {
		l, err := takeLock(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, dir string)
		want []string
	}{
		{"open to others", func(t *testing.T, dir string) {
			used(t, dir)
			os.Chmod(dir, 0o750)
		}, []string{"0750", "chmod 700"}},
		{"foreign", func(t *testing.T, dir string) { os.MkdirAll(filepath.Join(dir, "logs"), 0o700) }, []string{`holds "logs"`, "solo.data_dir"}},
		{"a file", func(t *testing.T, dir string) { os.WriteFile(dir, nil, 0o600) }, []string{"not a directory"}},
		{"read-only", func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can mount; the tests run as root in CI")
			}
			used(t, dir)
			if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, "mode=700"); err != nil {
				t.Skipf("this host does not let root mount a tmpfs (%v); CI does", err)
			}
			t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		}, []string{"read-only", "solo.data_dir"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			tc.make(t, dir)
			l, err := takeLock(dir)
			if err == nil {
				l.Close()
				t.Fatal("it was taken")
			}
			for _, want := range append(tc.want, dir) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
	// A new one that is empty is made private.
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	used(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("it is %v, %v", info, err)
	}
}

func TestAnothersDataDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away; the tests run as root in CI")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if l, err := takeLock(dir); err == nil || !strings.Contains(err.Error(), "belongs to uid 12345") || !strings.Contains(err.Error(), dir) {
		if err == nil {
			l.Close()
		}
		t.Errorf("takeLock = %v", err)
	}
}

// trace notes in which order parts end.
type trace struct {
	mu   sync.Mutex
	ends []string
}

func (tr *trace) part(name string, fail <-chan error) part {
	return part{name: name, run: func(ctx context.Context) error {
		tr.note("+" + name)
		var err error
		select {
		case <-ctx.Done():
		case err = <-fail:
		}
		tr.note("-" + name)
		if err != nil && err.Error() == "panic" {
			panic("its goroutine")
		}
		return err
	}}
}

func (tr *trace) note(what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.ends = append(tr.ends, what)
}

func (tr *trace) seen() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return strings.Join(tr.ends, " ")
}

// runTree runs parts to their end, and notes the failures that were mended.
func runTree(ctx context.Context, parts ...part) (*tree, *[]string, <-chan error) {
	var failures []string
	tree := newTree(parts, func(part string, err error, restarts int) {
		failures = append(failures, fmt.Sprintf("%s %d %.30q", part, restarts, strings.SplitN(err.Error(), "\n", 2)[0]))
	})
	done := make(chan error, 1)
	go func() { done <- tree.run(ctx) }()
	return tree, &failures, done
}

func vital(p part) part {
	p.vital = true
	return p
}

func TestPartsEndInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trace{}
		ctx, cancel := context.WithCancel(t.Context())
		_, _, done := runTree(ctx, tr.part("a", nil), tr.part("b", nil), tr.part("c", nil))
		synctest.Wait()
		tr.ends = nil
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run = %v", err)
		}
		if got := tr.seen(); got != "-c -b -a" {
			t.Errorf("they ended as %v", got)
		}
	})
}

func TestThoseAfterAPartAreRestartedWithIt(t *testing.T) {
	for fault, why := range map[string]error{"an error": errors.New("its listener is closed"), "a panic": errors.New("panic"), "nothing": nil} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &trace{}
				fail := make(chan error)
				ctx, cancel := context.WithCancel(t.Context())
				tree, failures, done := runTree(ctx, vital(tr.part("a", nil)), tr.part("b", fail), tr.part("c", nil), tr.part("d", nil))
				synctest.Wait()
				tr.ends = nil
				fail <- why
				synctest.Wait()
				got := tr.seen()
				// What is started again is started at once: its own first steps have no order.
				if !strings.HasPrefix(got, "-b -d -c ") || strings.Contains(got, "a") || strings.Count(got, "+") != 3 {
					t.Errorf("after the fault: %v", got)
				}
				nodes := tree.snapshot()
				if nodes[1].Restarts != 1 || nodes[1].State != "running" || nodes[1].Detail == "" || nodes[2].Restarts != 0 || nodes[0].Restarts != 0 {
					t.Errorf("the tree is %+v", nodes)
				}
				if len(*failures) != 1 || !strings.HasPrefix((*failures)[0], "b 1 ") {
					t.Errorf("failures %v", *failures)
				}
				cancel()
				if err := <-done; err != nil {
					t.Errorf("run = %v", err)
				}
			})
		})
	}
}

func TestAPartThatKeepsFailingEndsTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trace{}
		fail := make(chan error, 100)
		bad := errors.New("its disk is gone")
		for range 100 {
			fail <- bad
		}
		_, failures, done := runTree(t.Context(), tr.part("a", nil), tr.part("b", fail), tr.part("c", nil))
		err := <-done
		if !errors.Is(err, bad) || !strings.Contains(err.Error(), "b failed 6 times within 1m0s") {
			t.Errorf("run = %v", err)
		}
		if len(*failures) != partRestarts {
			t.Errorf("%d restarts: %v", len(*failures), *failures)
		}
		if got := tr.seen(); !strings.HasSuffix(got, "-c -a") {
			t.Errorf("the last ends are %v", got)
		}
	})
}

// idleEngine is all of the engine that a gateway without callers needs.
type idleEngine struct{ gateway.Engine }

func (idleEngine) Ready() bool { return true }

// A listener that is closed under the gateway is bound anew, at its own address,
// and nothing else is touched.
func TestAClosedListenerIsBoundAnew(t *testing.T) {
	log := hclog.NewNullLogger()
	soon := func() time.Duration { return time.Second }
	d := &doors{
		rest:  rest.Config{Engine: idleEngine{}, Log: log, Addr: "127.0.0.1:0", Socket: filepath.Join(t.TempDir(), "s"), ShutdownTimeout: soon},
		grpc:  grpc.Config{Engine: idleEngine{}, Log: log, Addr: "127.0.0.1:0", ShutdownTimeout: soon},
		holds: make(chan hold),
	}
	if err := d.listen(); err != nil {
		t.Fatal(err)
	}
	url := "http://" + d.rest.Addr + "/health/live"
	live := func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	tr := &trace{}
	ctx, cancel := context.WithCancel(t.Context())
	tree, failures, done := runTree(ctx, tr.part("before", nil), part{name: "gateway", run: d.run})
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never happened: %s", what)
			}
		}
	}
	until("it serves", live)
	for n := range 2 {
		d.open[n][0].Close()
		until("it is restarted", func() bool { return tree.snapshot()[1].Restarts == n+1 })
		until("it serves again", live)
	}
	if got := tr.seen(); got != "+before" {
		t.Errorf("the part before it: %s", got)
	}
	cancel()
	if err := <-done; err != nil || len(*failures) != 2 {
		t.Errorf("run = %v, failures %v", err, *failures)
	}
}

func TestTheEndOfAVitalPartIsTheDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trace{}
		fail := make(chan error)
		_, failures, done := runTree(t.Context(), vital(tr.part("a", fail)), tr.part("b", nil))
		synctest.Wait()
		fail <- errors.New("out of pids")
		if err := <-done; err == nil || !strings.Contains(err.Error(), "a: out of pids") || len(*failures) > 0 {
			t.Errorf("run = %v, failures %v", err, *failures)
		}
	})
}
