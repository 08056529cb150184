package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
)

var childBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "solo-process-")
	if err != nil {
		panic(err)
	}
	childBinary = filepath.Join(dir, "child")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", childBinary, "./testdata/child")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the child: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// record keeps what a service printed.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) Line(stream, level string, line []byte, truncated bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf("%s %s %s", stream, level, line))
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

type fixture struct {
	t        *testing.T
	launcher *process.Launcher
	runRoot  string
	n        int
}

// setup runs a sandbox and checks at the end that nothing of it is left.
func setup(t *testing.T) *fixture {
	t.Helper()
	// Short: a unix socket's path has 107 bytes.
	root, err := os.MkdirTemp("/tmp", "sp")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(root, 0o711)
	host, err := sandbox.Open(sandbox.Config{ID: fmt.Sprintf("%012x", os.Getpid()), Boot: fmt.Sprintf("%08x", time.Now().UnixNano()&0xffffffff), RunRoot: filepath.Join(root, "run")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := host.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(root)
	})
	return &fixture{t: t, launcher: process.New(host), runRoot: filepath.Join(root, "run")}
}

func (f *fixture) spec(mode string) (process.Spec, *record) {
	f.n++
	r := &record{}
	limits := solo.DefaultLimits()
	limits.MemoryMB, limits.CPUPercent = 128, 200
	return process.Spec{
		Key: solo.Key{Tenant: "t", Service: "s"}, Instance: f.n, Version: 7, Binary: childBinary, Limits: limits,
		Env: map[string]string{"MODE": mode}, StartTimeout: 10 * time.Second, Output: r,
	}, r
}

func (f *fixture) start(mode string) (*process.Instance, *record) {
	f.t.Helper()
	spec, r := f.spec(mode)
	i, err := f.launcher.Start(f.t.Context(), spec)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { i.Stop(solo.ReasonKilled, 0, true) })
	return i, r
}

// nothingLeft checks that no directory of an instance is left.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	left, err := filepath.Glob(filepath.Join(f.runRoot, "*", "i-*"))
	if err != nil || len(left) > 0 {
		f.t.Errorf("left behind: %v %v", left, err)
	}
}

func TestTheWorldOfAService(t *testing.T) {
	f := setup(t)
	t.Setenv("SECRET_OF_THE_DAEMON", "x")
	i, _ := f.start("")
	r, err := i.Call(t.Context(), &solo.InvokeRequest{Method: "world"})
	if err != nil {
		t.Fatal(err)
	}
	var env, fds []string
	uid := ""
	for _, line := range strings.Split(string(r.Body), "\n") {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "env":
			name, value, _ := strings.Cut(rest, "=")
			switch name {
			case "TMPDIR", "PLUGIN_UNIX_SOCKET_DIR", "SOLO_PLUGIN":
				if value == "" {
					t.Errorf("%s is empty", name)
				}
				rest = name
			}
			env = append(env, rest)
		case "fd":
			fds = append(fds, rest)
		case "uid":
			uid = rest
		case "dir":
			if rest != "work 0" {
				t.Errorf("the working directory is %q, want an empty one", rest)
			}
		}
	}
	want := []string{
		"GOMAXPROCS=2", "GOMEMLIMIT=107374180", "MODE=", "PLUGIN_MAX_PORT=25000", "PLUGIN_MIN_PORT=10000", "PLUGIN_PROTOCOL_VERSIONS=1",
		"PLUGIN_UNIX_SOCKET_DIR", "SOLO_INSTANCE=1", "SOLO_PLUGIN", "SOLO_SERVICE=s", "SOLO_TENANT=t", "SOLO_VERSION=7", "TMPDIR",
	}
	if !slices.Equal(env, want) {
		t.Errorf("the environment is %q, want %q", env, want)
	}
	for _, fd := range fds {
		number, kind, _ := strings.Cut(fd, " ")
		n, _ := strconv.Atoi(number)
		if n == 0 && kind != "/dev/null" || (n == 1 || n == 2) && kind != "pipe" || n > 2 && kind != "socket" && kind != "anon_inode" && !strings.HasPrefix(kind, "/sys/fs/cgroup/") {
			// (Go's runtime keeps its own group's files open, to follow the limit.)
			t.Errorf("descriptor %s", fd)
		}
	}
	if os.Geteuid() == 0 && (uid == "0" || uid == "") {
		t.Errorf("it runs as uid %q", uid)
	}
	if u, err := i.Usage(); err != nil || u.MemoryBytes == 0 || u.PIDs == 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

func TestStartsThatFail(t *testing.T) {
	f := setup(t)
	for _, tc := range []struct {
		mode    string
		timeout time.Duration
		reason  solo.Reason
		code    int
		tail    string
	}{
		{"exit 3", 0, solo.ReasonExitCode, 3, "cannot go on"},
		{"exit 0", 0, solo.ReasonClean, 0, ""},
		{"panic", 0, solo.ReasonPanic, 2, "panic: at once"},
		{"start fails", 0, solo.ReasonExitCode, 1, "Start: nothing to start with"},
		{"orphans", 0, solo.ReasonExitCode, 4, "forked"},
		{"silent", 300 * time.Millisecond, solo.ReasonStartTimeout, -1, ""},
		{"start hangs", 300 * time.Millisecond, solo.ReasonStartTimeout, -1, ""},
		{"lies", 300 * time.Millisecond, solo.ReasonStartTimeout, -1, ""},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			spec, out := f.spec(tc.mode)
			if tc.timeout > 0 {
				spec.StartTimeout = tc.timeout
			}
			_, err := f.launcher.Start(t.Context(), spec)
			var start *process.StartError
			if !errors.As(err, &start) {
				t.Fatalf("Start = %v", err)
			}
			x := start.Exit
			if x.Reason != tc.reason || tc.code >= 0 && (x.Code == nil || *x.Code != tc.code || x.Signal != nil) {
				t.Errorf("exit %+v, want %s %d", x, tc.reason, tc.code)
			}
			if tc.code < 0 && (x.Code != nil || x.Signal == nil || *x.Signal != "SIGKILL" || x.Details["step"] == nil) {
				t.Errorf("exit %+v", x)
			}
			if !strings.Contains(strings.Join(x.LogTail, "\n"), tc.tail) {
				t.Errorf("log_tail %q lacks %q", x.LogTail, tc.tail)
			}
			if x.Reason == solo.ReasonPanic && (x.Panic == nil || x.Panic.File == nil || !strings.HasSuffix(*x.Panic.File, "pkg/process/testdata/child/main.go") || *x.Panic.Line == 0) {
				t.Errorf("panic %+v", x.Panic)
			}
			for _, line := range out.all() {
				var pid int
				if n, _ := fmt.Sscanf(line, "stdout info forked %d", &pid); n == 1 && running(pid) {
					t.Errorf("the orphan %d runs on", pid)
				}
			}
			f.nothingLeft()
		})
	}
}

// running tells a process from one that pid 1 has not reaped yet.
func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestAStartThatIsCalledOff(t *testing.T) {
	f := setup(t)
	for _, mode := range []string{"silent", "start hangs"} {
		spec, _ := f.spec(mode)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		began := time.Now()
		_, err := f.launcher.Start(ctx, spec)
		var start *process.StartError
		if !errors.As(err, &start) || start.Exit.Reason != solo.ReasonKilled {
			t.Errorf("%s: %v", mode, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v", mode, took)
		}
		f.nothingLeft()
	}
}

func TestDeathUnderACall(t *testing.T) {
	f := setup(t)
	for _, tc := range []struct {
		method string
		check  func(solo.Exit) bool
		tail   string
	}{
		{"die", func(x solo.Exit) bool {
			return x.Reason == solo.ReasonSignal && *x.Signal == "SIGKILL" && x.Code == nil && !x.OOM
		}, ""},
		{"exit", func(x solo.Exit) bool { return x.Reason == solo.ReasonExitCode && *x.Code == 7 }, "last line 99"},
	} {
		i, out := f.start("")
		_, err := i.Call(t.Context(), &solo.InvokeRequest{Method: tc.method})
		e := solo.AsError(err)
		x, ok := e.Details["exit"].(solo.Exit)
		if e.Code != solo.CodeUnavailable || !ok || !tc.check(x) {
			t.Errorf("%s: %v %+v", tc.method, err, e.Details)
		}
		<-i.Done()
		lines := out.all()
		if tc.tail != "" && (len(lines) == 0 || !strings.HasSuffix(lines[len(lines)-1], tc.tail)) {
			t.Errorf("%s: the log ends %q", tc.method, lines[max(0, len(lines)-3):])
		}
		if _, err := i.Call(t.Context(), &solo.InvokeRequest{Method: "world"}); solo.CodeOf(err) != solo.CodeUnavailable {
			t.Errorf("a call of the dead: %v", err)
		}
	}
	f.nothingLeft()
}

func TestCallsThatGoWrong(t *testing.T) {
	f := setup(t)
	i, _ := f.start("")
	if _, err := i.Call(t.Context(), &solo.InvokeRequest{Method: "big"}); solo.CodeOf(err) != solo.CodeServiceError || !strings.Contains(err.Error(), "8 MiB") {
		t.Errorf("a reply over the bound: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.Call(ctx, &solo.InvokeRequest{Method: "hang"}); solo.CodeOf(err) != solo.CodeDeadlineExceeded {
		t.Errorf("a call past its deadline: %v", err)
	}
	if err := i.Ping(t.Context()); err != nil {
		t.Errorf("Ping after those: %v", err)
	}
}

func TestStop(t *testing.T) {
	f := setup(t)
	t.Run("by its own Stop", func(t *testing.T) {
		i, out := f.start("")
		i.Stop(solo.ReasonShutdown, 10*time.Second, false)
		if x := i.Exit(); x.Reason != solo.ReasonShutdown || x.Code == nil || *x.Code != 0 {
			t.Errorf("exit %+v", x)
		}
		if !slices.Contains(out.all(), "log info stopping") {
			t.Errorf("the author's Stop did not run: %q", out.all())
		}
	})
	t.Run("one that ignores all", func(t *testing.T) {
		i, _ := f.start("stubborn")
		began := time.Now()
		i.Stop(solo.ReasonKilled, 300*time.Millisecond, false)
		took := time.Since(began)
		if x := i.Exit(); x.Reason != solo.ReasonKilled || x.Signal == nil || *x.Signal != "SIGKILL" {
			t.Errorf("exit %+v", x)
		}
		if took < 300*time.Millisecond || took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("a second one with force", func(t *testing.T) {
		i, _ := f.start("stubborn")
		first := make(chan struct{})
		go func() { i.Stop(solo.ReasonKilled, time.Hour, false); close(first) }()
		i.Stop(solo.ReasonUnhealthy, 0, true)
		<-first
		if x := i.Exit(); x.Reason != solo.ReasonKilled && x.Reason != solo.ReasonUnhealthy {
			t.Errorf("exit %+v", x)
		}
	})
	f.nothingLeft()
}

func BenchmarkStart(b *testing.B) {
	root, err := os.MkdirTemp("/tmp", "sp")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(root)
	os.Chmod(root, 0o711)
	host, err := sandbox.Open(sandbox.Config{ID: fmt.Sprintf("%012x", os.Getpid()), Boot: "0badcafe", RunRoot: filepath.Join(root, "run")})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx) }()
	defer func() { cancel(); <-done; host.Close() }()
	l := process.New(host)
	n := 0
	b.Run("instance", func(b *testing.B) {
		for b.Loop() {
			n++
			i, err := l.Start(ctx, process.Spec{
				Key: solo.Key{Tenant: "t", Service: "s"}, Instance: n, Version: 1, Binary: childBinary, Limits: solo.DefaultLimits(),
				StartTimeout: 10 * time.Second, Output: &record{},
			})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := i.Call(ctx, &solo.InvokeRequest{Method: "world"}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			i.Stop(solo.ReasonKilled, 0, true)
			b.StartTimer()
		}
	})
	// The yardstick: the same binary, run to its end by os/exec.
	b.Run("exec", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command(childBinary)
			cmd.Env = []string{"MODE=exit 0"}
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
