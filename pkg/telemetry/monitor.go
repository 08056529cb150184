// Package telemetry is what the daemon knows and tells of itself.
//
// Its nouns: a [Monitor] looks at the daemon's own files, threads, memory, disk and
// store, and says when one of them is about to run out: once when it is crossed, and
// not again before it was well below. [Meters] count, for Prometheus, what the event
// log tells and how calls and requests end.
//
// What it promises: every label has a bound, a tenant sees no other's series, and
// what a metric says happened is in the log.
package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reading is one resource of the daemon's.
type Reading struct {
	// Resource is files, threads, goroutines, memory, disk, store or store_free.
	Resource string
	Used     uint64
	// Limit is what there is; 0 is no bound that is known.
	Limit uint64
	// High is set from when HighShare is reached until the share is below LowShare.
	High bool
}

// Share is Used of Limit, 0 without one.
func (r Reading) Share() float64 {
	if r.Limit == 0 {
		return 0
	}
	return float64(r.Used) / float64(r.Limit)
}

// The shares between which a reading keeps what it was.
const (
	HighShare = 0.85
	LowShare  = 0.75
)

// Config is what a [Monitor] looks at.
type Config struct {
	// DataDir is where the daemon writes.
	DataDir string
	// Store returns the size of the store's file and how much of it is free, in
	// bytes.
	Store func() (size, free int64)
	// High is told of a reading that has become high; an error is tried again at
	// the next look.
	High func(Reading) error
	// Every is the time between two looks; 0 is 10 s.
	Every time.Duration
	// Source takes a reading's place, for tests; nil is the kernel.
	Source func() []Reading
}

// Monitor watches. Run it.
type Monitor struct {
	cfg Config

	mu   sync.Mutex
	last []Reading
}

// New returns a monitor that has seen nothing yet.
func New(cfg Config) *Monitor {
	if cfg.Every <= 0 {
		cfg.Every = 10 * time.Second
	}
	m := &Monitor{cfg: cfg}
	if m.cfg.Source == nil {
		m.cfg.Source = m.read
	}
	return m
}

// Run looks until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	tick := time.NewTicker(m.cfg.Every)
	defer tick.Stop()
	for {
		m.look()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Readings are those of the last look.
func (m *Monitor) Readings() []Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Reading(nil), m.last...)
}

func (m *Monitor) look() {
	now := m.cfg.Source()
	was := map[string]bool{}
	for _, r := range m.Readings() {
		was[r.Resource] = r.High
	}
	for i := range now {
		r := &now[i]
		share := r.Share()
		r.High = share >= HighShare || was[r.Resource] && share >= LowShare
		if r.High && !was[r.Resource] && m.cfg.High(*r) != nil {
			r.High = false // told again at the next look
		}
	}
	m.mu.Lock()
	m.last = now
	m.mu.Unlock()
}

// maxThreads is where the Go runtime ends a process.
const maxThreads = 10000

// freeFloor is how large a store has to be before its free pages matter.
const freeFloor = 256 << 20

func (m *Monitor) read() []Reading {
	var out []Reading
	var files unix.Rlimit
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil && unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		out = append(out, Reading{Resource: "files", Used: uint64(len(entries)), Limit: files.Cur})
	}
	status := keys("/proc/self/status")
	out = append(out,
		Reading{Resource: "threads", Used: status["Threads"], Limit: maxThreads},
		Reading{Resource: "goroutines", Used: uint64(runtime.NumGoroutine())},
		Reading{Resource: "memory", Used: status["VmRSS"] << 10, Limit: keys("/proc/meminfo")["MemTotal"] << 10},
	)
	var fs unix.Statfs_t
	if unix.Statfs(m.cfg.DataDir, &fs) == nil {
		// As df counts: what root keeps for itself is neither used nor to be had.
		used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
		out = append(out, Reading{Resource: "disk", Used: used, Limit: used + fs.Bavail*uint64(fs.Bsize)})
	}
	size, free := m.cfg.Store()
	store := Reading{Resource: "store_free", Used: uint64(free)}
	if size >= freeFloor {
		store.Limit = uint64(size)
	}
	return append(out, Reading{Resource: "store", Used: uint64(size)}, store)
}

// keys reads the numbers of a file of "Name:  number unit" lines.
func keys(path string) map[string]uint64 {
	out := map[string]uint64{}
	f, err := os.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			out[name] = n
		}
	}
	return out
}

// String is a reading in a few words.
func (r Reading) String() string {
	if r.Limit == 0 {
		return fmt.Sprintf("%s %d", r.Resource, r.Used)
	}
	return fmt.Sprintf("%s %d of %d (%.0f %%)", r.Resource, r.Used, r.Limit, 100*r.Share())
}
