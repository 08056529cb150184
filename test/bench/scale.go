package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"

	"github.com/solo-run/solo/test/harness"
)

// twoDeploys: two changed sources at once against one.
func (b *bench) twoDeploys() error {
	deploy := func(n int) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			var group sync.WaitGroup
			var failed atomic.Pointer[error]
			ids := make([]string, n)
			began := time.Now()
			for i := range n {
				ids[i] = fmt.Sprintf("two-%d-%d", b.n, i)
				code := b.source()
				group.Go(func() {
					if err := b.deploy(ids[i], code); err != nil {
						failed.Store(&err)
					}
				})
			}
			group.Wait()
			took := time.Since(began)
			if err := failed.Load(); err != nil {
				return 0, *err
			}
			for _, id := range ids {
				if err := b.remove(id); err != nil {
					return 0, err
				}
			}
			return took, nil
		}
	}
	return b.pair("two deploys of changed sources at once / one", "≤ 1.35", deploy(2), deploy(1))
}

// settleTime is how long after its boot a daemon counts as idle.
const settleTime = 35 * time.Second

// idleTime is how long a daemon with all services is watched.
const idleTime = 10 * time.Second

// scale: many services against as many children of go-plugin's own host, once.
func (b *bench) scale() error {
	n := b.services
	if n == 0 {
		return nil
	}
	stock, err := b.stockChildren(n)
	if err != nil {
		return err
	}
	d := &harness.Daemon{Bin: b.d.Bin, Dir: filepath.Join(b.dir, "many"), Env: append(os.Environ(),
		fmt.Sprintf("SOLO_LIMITS__MAX_PER_TENANT=%d", n), fmt.Sprintf("SOLO_LIMITS__MAX_TOTAL=%d", n),
		"SOLO_BUILD__CACHE_DIR="+filepath.Join(b.d.Dir, "cache"), "SOLO_TELEMETRY__LOG_EVENTS=false")}
	if err := d.Start(); err != nil {
		return err
	}
	defer func() { d.Stop(syscall.SIGTERM) }()
	other := b.d
	b.d = d
	defer func() { b.d = other }()
	code := b.source()
	err = eachOf(n, func(i int) error { return b.deploy(fmt.Sprint("m", i), code) })
	if err != nil {
		return err
	}
	if err := d.Stop(syscall.SIGTERM); err != nil {
		return err
	}
	began := time.Now()
	if err := d.Start(); err != nil {
		return err
	}
	up := time.Since(began)
	pids, err := descendants(d.PID())
	if err != nil {
		return err
	}
	memory, err := pss(pids)
	if err != nil {
		return err
	}
	// A young instance is looked at more often.
	time.Sleep(settleTime)
	before, err := cpuTime(d.PID())
	if err != nil {
		return err
	}
	time.Sleep(idleTime)
	after, err := cpuTime(d.PID())
	if err != nil {
		return err
	}
	b.line(fmt.Sprintf("%d services: memory of their processes (PSS) / as many stock go-plugin children", n), "≤ 0.4",
		fmt.Sprintf("%d MB", memory>>20), fmt.Sprintf("%d MB", stock.memory>>20), float64(memory)/float64(stock.memory))
	b.line(fmt.Sprintf("%d services: start of the daemon until all are ready / start of as many stock children, four at once", n), "≤ 0.45",
		round(up), round(stock.up), up.Seconds()/stock.up.Seconds())
	b.line(fmt.Sprintf("%d services, idle: CPU time of solod / wall time", n), "≤ 0.02", round(after-before), round(idleTime), (after-before).Seconds()/idleTime.Seconds())
	return nil
}

// eachOf runs f for 0 to n-1, four at a time.
func eachOf(n int, f func(int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

type crowd struct {
	memory uint64
	up     time.Duration
}

// stockChildren starts n children of the stock plugin and ends them.
func (b *bench) stockChildren(n int) (crowd, error) {
	text, err := os.ReadFile("test/bench/testdata/stock/main.go")
	if err != nil {
		return crowd{}, err
	}
	if err := b.goBuild("test/bench/testdata/stock", string(text)); err != nil {
		return crowd{}, err
	}
	binary := filepath.Join(b.dir, "stock")
	if err := os.Rename(filepath.Join(b.dir, "built"), binary); err != nil {
		return crowd{}, err
	}
	clients := make([]*plugin.Client, n)
	defer eachOf(n, func(i int) error {
		if clients[i] != nil {
			clients[i].Kill()
		}
		return nil
	})
	began := time.Now()
	err = eachOf(n, func(i int) error {
		clients[i] = plugin.NewClient(stockConfig(binary))
		protocol, err := clients[i].Client()
		if err != nil {
			return err
		}
		return protocol.Ping()
	})
	if err != nil {
		return crowd{}, err
	}
	out := crowd{up: time.Since(began)}
	var pids []int
	for _, c := range clients {
		pid, err := strconv.Atoi(c.ID())
		if err != nil {
			return crowd{}, err
		}
		pids = append(pids, pid)
	}
	out.memory, err = pss(pids)
	return out, err
}

// descendants are the children of a process: solod's are its services, its guard
// and two shims that wait.
func descendants(pid int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// pss sums what processes hold of memory, a page that several share divided.
func pss(pids []int) (uint64, error) {
	var total uint64
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if errors.Is(err, os.ErrNotExist) {
			continue // a shim that was waiting, and is not any more
		}
		if err != nil {
			return 0, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(rest, " kB")), 10, 64)
				if err != nil {
					f.Close()
					return 0, err
				}
				total += n << 10
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// cpuTime is what a process has used, in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
