package sandbox_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/sandbox"
)

// The test binary is also every program that the tests run: under the name
// "child" it does what its next argument says.
func TestMain(m *testing.M) {
	if os.Args[0] == "child" {
		child(os.Args[1], os.Args[2:])
	}
	os.Exit(m.Run())
}

// world is what a child sees of itself.
type world struct {
	Env      []string
	FDs      map[string]string
	UID      int
	GID      int
	Groups   []int
	Dir      string
	Umask    int
	Status   map[string]string
	OOMScore string
	Cgroups  string
	Limits   map[string]uint64
	Session  bool
}

func child(mode string, args []string) {
	switch mode {
	case "world":
		json.NewEncoder(os.Stdout).Encode(look())
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "signal":
		sig, _ := strconv.Atoi(args[0])
		syscall.Kill(os.Getpid(), syscall.Signal(sig))
		select {}
	case "stay":
		stay()
	case "family":
		// A grandchild in a session of its own, that keeps stdout open.
		for range 3 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Args = []string{"child", "stay"}
			cmd.Stdout = os.Stdout
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		}
		if args[0] == "leave" {
			os.Exit(0)
		}
		stay()
	case "hog":
		var keep [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			keep = append(keep, b)
			if len(keep) > 1<<12 {
				os.Exit(0)
			}
		}
	case "fork":
		n, failed := 0, 0
		for range 200 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Args = []string{"child", "stay"}
			if err := cmd.Start(); err != nil {
				failed++
			} else {
				n++
			}
		}
		fmt.Println(n, failed)
		stay()
	case "bomb":
		// Each of them forks for as long as it lives.
		for {
			cmd := exec.Command("/proc/self/exe")
			cmd.Args = []string{"child", "bomb"}
			cmd.Start()
		}
	case "once":
		// A second run in the same directory would find the file.
		if _, err := os.OpenFile("ran", os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			os.Exit(9)
		}
	case "spin":
		fmt.Println("spinning")
		//lint:ignore SA5002 it is here to burn a core
		for {
		}
	case "daemon":
		daemon(args)
	}
	os.Exit(0)
}

// stay ignores what can be ignored and says that it has begun.
func stay() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	fmt.Println("stay", os.Getpid())
	for {
		time.Sleep(time.Hour)
	}
}

func look() world {
	w := world{
		Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), FDs: map[string]string{},
		Status: map[string]string{}, Limits: map[string]uint64{},
	}
	w.Groups, _ = os.Getgroups()
	w.Dir, _ = os.Getwd()
	w.Umask = syscall.Umask(0)
	sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	w.Session = int(sid) == os.Getpid()
	// The directory's own descriptor is closed when the links are read.
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		// Go's runtime has a poller and the files with its CPU quota open.
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.Contains(target, "/cpu.") {
			w.FDs[e.Name()] = target
		}
	}
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		w.Status[name] = strings.TrimSpace(value)
	}
	data, _ = os.ReadFile("/proc/self/oom_score_adj")
	w.OOMScore = strings.TrimSpace(string(data))
	data, _ = os.ReadFile("/proc/self/cgroup")
	w.Cgroups = string(data)
	for name, r := range map[string]int{"core": syscall.RLIMIT_CORE, "nofile": syscall.RLIMIT_NOFILE, "fsize": syscall.RLIMIT_FSIZE} {
		var l syscall.Rlimit
		syscall.Getrlimit(r, &l)
		w.Limits[name] = l.Max
	}
	return w
}

// daemon is a solod that starts children and then waits to be killed. Its only
// argument is the config.
func daemon(args []string) {
	signal.Ignore(syscall.SIGTERM)
	var cfg sandbox.Config
	if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
		fail(err)
	}
	h, err := sandbox.Open(cfg)
	if err != nil {
		fail(err)
	}
	go h.Run(context.Background())
	for i, mode := range args[1:] {
		name := fmt.Sprintf("c%d", i)
		dir, err := h.MakeDir(name)
		if err != nil {
			fail(err)
		}
		p, err := h.Start(context.Background(), sandbox.Command{
			Name: name, Path: "/proc/self/exe", Args: append([]string{"child"}, strings.Fields(mode)...),
			Dir: dir, OwnDirs: []string{dir}, Stdout: os.Stdout, Limits: sandbox.Limits{PIDs: 200},
		})
		if err != nil {
			fail(err)
		}
		fmt.Println("started", p.PID())
	}
	layers, _ := json.Marshal(h.Layers())
	fmt.Println("layers", string(layers))
	select {}
}

func fail(err error) {
	fmt.Println("error", err)
	os.Exit(1)
}

// rig is a host under test; at the end of the test nothing of it may be left.
type rig struct {
	*sandbox.Host
	cfg  sandbox.Config
	stop func()
}

func randomHex(n int) string {
	b := make([]byte, n/2)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func config(t testing.TB) sandbox.Config {
	t.Helper()
	base, err := os.MkdirTemp("", "sbx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	// Children of other users pass through it.
	if err := os.Chmod(base, 0o711); err != nil {
		t.Fatal(err)
	}
	cfg := sandbox.Config{ID: randomHex(12), Boot: randomHex(8), RunRoot: filepath.Join(base, "run"), StateDir: filepath.Join(base, "state")}
	t.Cleanup(func() { checkNothingLeft(t, cfg) })
	return cfg
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: cgroups and users of their own")
	}
}

func open(t testing.TB, cfg sandbox.Config) *rig {
	t.Helper()
	h, err := sandbox.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	stopped := false
	r := &rig{Host: h, cfg: cfg}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// groupDirs are all cgroup directories of an id.
func groupDirs(id string) []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/*/solo-" + id, "/sys/fs/cgroup/solo-" + id, "/sys/fs/cgroup/*/solo-" + id + "/*/*"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.IsDir() {
				out = append(out, f)
			}
		}
	}
	sort.Strings(out)
	return out
}

func checkNothingLeft(t testing.TB, cfg sandbox.Config) {
	t.Helper()
	if left := groupDirs(cfg.ID); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	entries, _ := os.ReadDir(cfg.RunRoot)
	for _, e := range entries {
		t.Errorf("run directory is left: %s", e.Name())
	}
}

// command is a child in a directory of its own, with its stdout.
func (r *rig) command(t testing.TB, name string, args ...string) (sandbox.Command, *os.File) {
	t.Helper()
	dir, err := r.MakeDir(name)
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	return sandbox.Command{
		Name: name, Path: "/proc/self/exe", Args: append([]string{"child"}, args...),
		Env: []string{"A=1"}, Dir: work, OwnDirs: []string{work}, Stdout: in,
	}, out
}

func (r *rig) start(t testing.TB, c sandbox.Command) *sandbox.Proc {
	t.Helper()
	p, err := r.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout.Close()
	return p
}

func (r *rig) finish(t testing.TB, p *sandbox.Proc, name string) {
	t.Helper()
	if err := r.RemoveDir(name); err != nil {
		t.Error(err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
}

// alive reports whether a process is there and not a zombie.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(data[strings.LastIndexByte(string(data), ')')+2:])
	return rest[0] != 'Z' && rest[0] != 'X'
}

// until polls for a state of other processes, which nothing announces.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
