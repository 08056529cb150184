package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
	return part{name, func(ctx context.Context) error {
		var err error
		select {
		case <-ctx.Done():
		case err = <-fail:
		}
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.ends = append(tr.ends, name)
		return err
	}}
}

func TestPartsEndInReverse(t *testing.T) {
	tr := &trace{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runParts(ctx, []part{tr.part("a", nil), tr.part("b", nil), tr.part("c", nil)}); err != nil {
		t.Errorf("runParts = %v", err)
	}
	if !slices.Equal(tr.ends, []string{"c", "b", "a"}) {
		t.Errorf("they ended as %v", tr.ends)
	}
}

func TestAPartThatFailsEndsTheDaemon(t *testing.T) {
	bad := errors.New("its disk is gone")
	for name, fails := range map[string]error{"with an error": bad, "without one": nil} {
		tr := &trace{}
		fail := make(chan error, 1)
		fail <- fails
		err := runParts(t.Context(), []part{tr.part("a", nil), tr.part("b", fail), tr.part("c", nil)})
		if err == nil || !strings.Contains(err.Error(), "b") || fails != nil && !errors.Is(err, bad) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(tr.ends, []string{"b", "c", "a"}) {
			t.Errorf("%s: they ended as %v", name, tr.ends)
		}
	}
}
