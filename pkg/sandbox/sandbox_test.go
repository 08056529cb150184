package sandbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox"
)

// Nothing ambient reaches a child: not even what the daemon has open without
// close-on-exec, ignores, or holds in its environment.
func TestStart_World(t *testing.T) {
	needRoot(t)
	t.Setenv("SECRET_OF_THE_DAEMON", "1")
	stray, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stray)
	r := open(t, config(t))
	c, out := r.command(t, "world", "world")
	c.Limits = sandbox.Limits{MemoryBytes: 64 << 20, CPUPercent: 50, PIDs: 64, FileBytes: 1 << 20, OpenFiles: 100}
	p := r.start(t, c)
	var w world
	if err := json.NewDecoder(out).Decode(&w); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got, want := p.Exit().Code, 0; got != want {
		t.Errorf("code %d, want %d", got, want)
	}
	if want := []string{"A=1"}; !reflect.DeepEqual(w.Env, want) {
		t.Errorf("environment %v, want %v", w.Env, want)
	}
	if len(w.FDs) != 3 || w.FDs["0"] != "/dev/null" || w.FDs["2"] != "/dev/null" || !strings.HasPrefix(w.FDs["1"], "pipe:") {
		t.Errorf("descriptors %v", w.FDs)
	}
	if w.UID != p.UID() || w.GID != p.UID() || w.UID < 2_000_000_000 || len(w.Groups) != 0 {
		t.Errorf("uid %d gid %d groups %v, leased %d", w.UID, w.GID, w.Groups, p.UID())
	}
	if w.Dir != c.Dir || w.Umask != 0o077 || !w.Session {
		t.Errorf("dir %q umask %o session leader %v", w.Dir, w.Umask, w.Session)
	}
	for name, want := range map[string]string{
		"NoNewPrivs": "1", "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "SigBlk": "0000000000000000",
	} {
		if w.Status[name] != want {
			t.Errorf("%s is %s, want %s", name, w.Status[name], want)
		}
	}
	if want := map[string]uint64{"core": 0, "nofile": 100, "fsize": 1 << 20}; !reflect.DeepEqual(w.Limits, want) {
		t.Errorf("limits %v, want %v", w.Limits, want)
	}
	if w.OOMScore != "0" {
		t.Errorf("oom score %s, want 0", w.OOMScore)
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		want := regexp.MustCompile(":" + controller + ":/solo-" + r.cfg.ID + "/" + r.cfg.Boot + `/c-\d+\n`)
		if !want.MatchString(w.Cgroups) && !pureV2() {
			t.Errorf("no %q in\n%s", want, w.Cgroups)
		}
	}
	r.finish(t, p, "world")
}

func pureV2() bool {
	data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return strings.Contains(string(data), "memory")
}

// An ignored or blocked signal survives exec, so the daemon's must not reach a child.
func TestStart_SignalsAreReset(t *testing.T) {
	cfg := config(t)
	cmd := daemonCommand(t, cfg, "world")
	// The daemon of this test ignores SIGTERM.
	lines := startDaemon(t, cmd)
	var w world
	for line := range lines {
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &w); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if got := w.Status["SigIgn"]; got != "0000000000000000" {
		t.Errorf("ignored signals %s", got)
	}
	cmd.Process.Kill()
	cmd.Wait()
	until(t, "the guard has cleaned up", func() bool { return len(groupDirs(cfg.ID)) == 0 && dirGone(cfg) })
}

func dirGone(cfg sandbox.Config) bool {
	_, err := os.Stat(filepath.Join(cfg.RunRoot, cfg.ID+"-"+cfg.Boot))
	return errors.Is(err, os.ErrNotExist)
}

func TestStart_Exits(t *testing.T) {
	r := open(t, config(t))
	for _, test := range []struct {
		args   []string
		code   int
		signal syscall.Signal
	}{
		{[]string{"exit", "0"}, 0, 0},
		{[]string{"exit", "3"}, 3, 0},
		{[]string{"exit", "111"}, 111, 0},
		{[]string{"signal", "9"}, -1, syscall.SIGKILL},
		{[]string{"signal", "15"}, -1, syscall.SIGTERM},
	} {
		c, _ := r.command(t, "exits", test.args...)
		p := r.start(t, c)
		s := p.Exit()
		if s.Code != test.code || s.Signal != test.signal || s.OOM {
			t.Errorf("%v: %+v", test.args, s)
		}
		if s.Ran <= 0 || s.CPU <= 0 || s.Peak == 0 {
			t.Errorf("%v: ran %v, cpu %v, peak %d", test.args, s.Ran, s.CPU, s.Peak)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
		r.finish(t, p, "exits")
	}
}

// A start is one run of the program, however busy the machine is and whether or
// not something waited for it.
func TestStart_OnceEach(t *testing.T) {
	r := open(t, config(t))
	var quit atomic.Bool
	defer quit.Store(true)
	for range 2 * runtime.NumCPU() {
		go func() {
			for n := 0; !quit.Load(); n++ {
			}
		}()
	}
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 50 {
				name := fmt.Sprintf("once-%d-%d", g, i)
				c, out := r.command(t, name, "once")
				c.Env = append(c.Env, "GORACE=atexit_sleep_ms=0")
				p, err := r.Start(t.Context(), c)
				if err != nil {
					t.Error(err)
					return
				}
				if s := p.Exit(); s.Code != 0 {
					t.Errorf("%s: %+v", name, s)
				}
				r.finish(t, p, name)
				c.Stdout.Close()
				out.Close()
			}
		})
	}
	group.Wait()
}

// A binary that is open for writing somewhere, for a moment, is waited for.
func TestStart_ABusyBinary(t *testing.T) {
	r := open(t, config(t))
	c, _ := r.command(t, "busy", "exit", "5")
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	writing, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { writing.Close() })
	c.Path = path
	p := r.start(t, c)
	if s := p.Exit(); s.Code != 5 {
		t.Errorf("exit %+v", s)
	}
	r.finish(t, p, "busy")
}

// What waits for a start may die before it comes.
func TestStart_CellsThatDied(t *testing.T) {
	r := open(t, config(t))
	for range 3 {
		until(t, "shims wait", func() bool { return len(waitingShims()) == 2 })
		for _, pid := range waitingShims() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		c, _ := r.command(t, "after", "exit", "7")
		p := r.start(t, c)
		if s := p.Exit(); s.Code != 7 {
			t.Fatalf("exit %+v", s)
		}
		r.finish(t, p, "after")
	}
}

// waitingShims are this process's children that are still shims.
func waitingShims() []int {
	var pids []int
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			line, _ := os.ReadFile("/proc/" + field + "/cmdline")
			if pid, err := strconv.Atoi(field); err == nil && strings.Contains(string(line), "sandbox-exec") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func TestStart_Errors(t *testing.T) {
	r := open(t, config(t))
	base, _ := r.command(t, "errors", "exit", "0")
	noexec := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(noexec, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*sandbox.Command)
		want   string
	}{
		{"missing binary", func(c *sandbox.Command) { c.Path = "/nonexistent/solo" }, "no such file"},
		{"no program", func(c *sandbox.Command) { c.Path = noexec }, "cannot execute the program: exec format error"},
		{"missing directory", func(c *sandbox.Command) { c.Dir, c.OwnDirs = "/nonexistent/solo", nil }, "cannot enter the working directory"},
		{"NUL", func(c *sandbox.Command) { c.Env = []string{"A=\x00"} }, "holds a NUL"},
		{"long", func(c *sandbox.Command) { c.Env = []string{"A=" + strings.Repeat("x", 2<<20)} }, "at most"},
		{"name", func(c *sandbox.Command) { c.Name = "../x" }, "as a name"},
		{"no arguments", func(c *sandbox.Command) { c.Args = nil }, "required"},
	} {
		c := base
		test.change(&c)
		p, err := r.Start(t.Context(), c)
		if err == nil {
			p.Kill()
			t.Errorf("%s: started", test.name)
			continue
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	// Two more are there for the next start.
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/memory/solo-" + r.cfg.ID + "/*/c-*"); len(dirs) > 2 {
		t.Errorf("groups are left: %v", dirs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Start(ctx, base); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled start: %v", err)
	}
	// All of the above have given the name back.
	p := r.start(t, base)
	if _, err := r.Start(t.Context(), base); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("same name twice: %v", err)
	}
	<-p.Done()
	r.finish(t, p, "errors")
	r.stop()
	if _, err := r.Start(t.Context(), base); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("start after Run: %v", err)
	}
}

// Each start has a user of its own, and a directory may be given to it only by
// its real name.
func TestStart_Users(t *testing.T) {
	needRoot(t)
	r := open(t, config(t))
	c, _ := r.command(t, "u1", "exit", "0")
	p := r.start(t, c)
	first := p.UID()
	<-p.Done()
	r.finish(t, p, "u1")
	c, _ = r.command(t, "u2", "exit", "0")
	target := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	bad := c
	bad.OwnDirs = []string{link}
	if _, err := r.Start(t.Context(), bad); err == nil {
		t.Error("a link was followed")
	}
	info, err := os.Stat(target)
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("the link's target belongs to %d", uid)
	}
	p = r.start(t, c)
	if p.UID() == first {
		t.Errorf("uid %d was given out twice in a row", first)
	}
	<-p.Done()
	r.finish(t, p, "u2")
}

func TestKill_WholeFamily(t *testing.T) {
	// A session of its own is found by its group or its user, or not at all.
	needRoot(t)
	for _, mode := range []string{"stay", "leave"} {
		t.Run(mode, func(t *testing.T) {
			r := open(t, config(t))
			c, out := r.command(t, "family", "family", mode)
			p := r.start(t, c)
			lines := bufio.NewReader(out)
			var pids []int
			if mode == "stay" {
				for range 4 {
					var pid int
					if _, err := fmt.Fscanf(lines, "stay %d\n", &pid); err != nil {
						t.Fatal(err)
					}
					pids = append(pids, pid)
				}
				begun := time.Now()
				if err := p.Kill(); err != nil {
					t.Fatal(err)
				}
				t.Logf("kill of %d processes took %v", len(pids), time.Since(begun))
			}
			<-p.Done()
			// The pipe ends only when nobody holds it any more.
			if _, err := io.Copy(io.Discard, lines); err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				if alive(pid) {
					t.Errorf("process %d is alive", pid)
				}
			}
			r.finish(t, p, "family")
		})
	}
}

func TestKill_ForkBomb(t *testing.T) {
	needRoot(t)
	r := open(t, config(t))
	c, _ := r.command(t, "bomb", "bomb")
	c.Limits = sandbox.Limits{PIDs: 100, CPUPercent: 100}
	p := r.start(t, c)
	until(t, "the bomb has spread", func() bool { u, err := p.Usage(); return err == nil && u.PIDs >= 95 })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	r.finish(t, p, "bomb")
}

func TestLimits_Memory(t *testing.T) {
	needRoot(t)
	r := open(t, config(t))
	c, _ := r.command(t, "hog", "hog")
	c.Limits = sandbox.Limits{MemoryBytes: 48 << 20}
	p := r.start(t, c)
	s := p.Exit()
	if !s.OOM || s.Signal != syscall.SIGKILL || s.Limit != 48<<20 || s.Peak < 40<<20 || s.Peak > 49<<20 {
		t.Errorf("%+v", s)
	}
	r.finish(t, p, "hog")
	// The next of the same name has a limit of its own again, and no old count.
	c, out := r.command(t, "hog", "stay")
	c.Limits = sandbox.Limits{MemoryBytes: 48 << 20}
	p = r.start(t, c)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if s := p.Exit(); s.OOM || s.Signal != syscall.SIGKILL {
		t.Errorf("a kill counts as want of memory: %+v", s)
	}
	r.finish(t, p, "hog")
}

func TestLimits_PIDs(t *testing.T) {
	needRoot(t)
	r := open(t, config(t))
	c, out := r.command(t, "forks", "fork")
	c.Limits = sandbox.Limits{PIDs: 60}
	p := r.start(t, c)
	var forked, failed int
	for line := range lines(out) {
		if n, _ := fmt.Sscanf(line, "%d %d", &forked, &failed); n == 2 {
			break
		}
	}
	if forked == 0 || forked >= 60 || failed == 0 {
		t.Errorf("%d forks, %d refused", forked, failed)
	}
	if u, err := p.Usage(); err != nil || u.PIDs == 0 || u.PIDs > 60 {
		t.Errorf("usage %+v, %v", u, err)
	}
	p.Kill()
	if s := p.Exit(); s.PIDsMax == 0 {
		t.Errorf("no refused fork was counted: %+v", s)
	}
	r.finish(t, p, "forks")
}

func TestLimits_CPU(t *testing.T) {
	needRoot(t)
	r := open(t, config(t))
	c, out := r.command(t, "spin", "spin")
	c.Limits = sandbox.Limits{CPUPercent: 20}
	p := r.start(t, c)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	before, _ := p.Usage()
	until(t, "600 ms", func() bool { return time.Since(begun) > 600*time.Millisecond })
	after, err := p.Usage()
	if err != nil {
		t.Fatal(err)
	}
	used := time.Duration(after.CPUUsec-before.CPUUsec) * time.Microsecond
	if share := float64(used) / float64(time.Since(begun)); share > 0.35 || used == 0 {
		t.Errorf("used %.2f of a core, limit 0.2", share)
	}
	p.Kill()
	r.finish(t, p, "spin")
}

// Run's end is the end of every program, and Close leaves nothing.
func TestRun_EndsAll(t *testing.T) {
	r := open(t, config(t))
	var pids []int
	for i := range 3 {
		c, out := r.command(t, fmt.Sprintf("p%d", i), "stay")
		p := r.start(t, c)
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, p.PID())
	}
	r.stop()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
}

func TestOpen_Errors(t *testing.T) {
	good := config(t)
	writable := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*sandbox.Config){
		"id":        func(c *sandbox.Config) { c.ID = "../../../x12" },
		"boot":      func(c *sandbox.Config) { c.Boot = "XYZ" },
		"isolation": func(c *sandbox.Config) { c.Isolation = "some" },
		"run root":  func(c *sandbox.Config) { c.RunRoot = writable },
	} {
		cfg := good
		change(&cfg)
		if h, err := sandbox.Open(cfg); err == nil {
			h.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

func TestLayers(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cfg.Isolation = sandbox.IsolationStrict
	r := open(t, cfg)
	layers := r.Layers()
	for _, name := range []string{"cgroup_memory", "cgroup_cpu", "cgroup_pids", "uid", "no_new_privs", "rlimits"} {
		if l, ok := layers[name]; !ok || !l.On {
			t.Errorf("%s: %+v", name, l)
		}
	}
	for _, name := range []string{"namespaces", "seccomp", "landlock"} {
		if l, ok := layers[name]; !ok || l.On || l.Why == "" {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestLayers_None(t *testing.T) {
	cfg := config(t)
	cfg.Isolation = sandbox.IsolationNone
	r := open(t, cfg)
	for name, l := range r.Layers() {
		if l.On || l.Why == "" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	c, out := r.command(t, "family", "family", "stay")
	p := r.start(t, c)
	if p.UID() != -1 {
		t.Errorf("uid %d", p.UID())
	}
	l := bufio.NewReader(out)
	for range 4 {
		if _, err := l.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := p.Usage(); err != nil || u.MemoryBytes == 0 || u.PIDs == 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	// Without groups only the session of the program is known: the grandchildren
	// of this test left it, so they are ended here.
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	killStrays(t, "stay")
	r.finish(t, p, "family")
}

func BenchmarkStart(b *testing.B) {
	r := open(b, config(b))
	dir, err := r.MakeDir("bench")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := r.Start(b.Context(), sandbox.Command{Name: "bench", Path: "/bin/true", Args: []string{"true"}, Dir: dir, Limits: sandbox.Limits{MemoryBytes: 64 << 20, CPUPercent: 100, PIDs: 100}})
		if err != nil {
			b.Fatal(err)
		}
		<-p.Done()
		if err := p.Release(); err != nil {
			b.Fatal(err)
		}
	}
}
