package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/solo-run/solo/test/harness"
)

// inside marks the process of the tests that has a mount namespace of its own, store
// a process that writes to a store until the power is cut.
const (
	inside  = "SOLO_CRASH_INSIDE"
	storeAt = "SOLO_CRASH_STORE"
)

// TestMain runs the tests in a mount namespace of their own, where there may be one:
// what they mount then ends with them, however they end.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(storeAt) != "":
		os.Exit(writeStore(os.Getenv(storeAt)))
	case os.Geteuid() == 0 && os.Getenv(inside) == "":
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		if err == nil {
			return
		}
		// Without the right to a namespace, what is mounted is unmounted by the tests.
	}
	code := m.Run()
	if workshop != "" {
		os.RemoveAll(workshop)
	}
	os.Exit(code)
}

// workshop holds what the tests share: the programs, and a warm cache.
var workshop string

var bench = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "solo-crash-")
	workshop = dir
	return err
})

var buildReleased = sync.OnceValue(func() error {
	if err := bench(); err != nil {
		return err
	}
	return harness.Build("../..", filepath.Join(workshop, "bin"))
})

// released builds the programs as they are released, once.
func released(t *testing.T) (bin string) {
	t.Helper()
	if err := buildReleased(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(workshop, "bin")
}

var buildMortal = sync.OnceValue(func() error {
	if err := bench(); err != nil {
		return err
	}
	bin := filepath.Join(workshop, "mortal")
	if err := harness.Build("../..", bin, "-tags", "failpoint"); err != nil {
		return err
	}
	warm := &harness.Daemon{Bin: bin, Dir: filepath.Join(workshop, "warm"), Env: append(os.Environ(), "SOLO_BUILD__CACHE_DIR="+filepath.Join(workshop, "cache"))}
	if err := warm.Start(); err != nil {
		return err
	}
	if err := warm.Warm(); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return warm.Stop(syscall.SIGTERM)
})

// mortal builds the programs with the places where they may be told to die, once,
// and a cache that is warm for them.
func mortal(t *testing.T) (bin, cache string) {
	t.Helper()
	if err := buildMortal(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(workshop, "mortal"), filepath.Join(workshop, "cache")
}
