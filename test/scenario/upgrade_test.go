package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
	"github.com/solo-run/solo/test/harness"
)

const tally = `package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/solo-run/solo/sdk"
)

func main() {
	var mu sync.Mutex
	counts := map[string]int{}
	go func() {
		for n := 0; ; n++ {
			fmt.Println("tick", n)
			time.Sleep(2 * time.Millisecond)
		}
	}()
	sdk.Serve(sdk.Methods{
		"add": sdk.JSON(func(ctx context.Context, name string) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			counts[name]++
			return counts[name], nil
		}),
		"log": sdk.JSON(func(ctx context.Context, text string) (any, error) {
			sdk.HostFrom(ctx).Log("warn", "%s", text)
			return nil, nil
		}),
		"exit": sdk.JSON(func(context.Context, any) (any, error) { os.Exit(3); return nil, nil }),
	})
}
`

// upgrades is how many there are in a run; SOLO_UPGRADES says another number.
func upgrades(t *testing.T) int {
	n := 5
	if text := os.Getenv("SOLO_UPGRADES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// Under callers of both wires, the daemon is replaced again and again: no call
// fails, the services keep their processes and their memory, and no line of their
// logs is lost or doubled.
func TestUpgradeInPlace(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-upgrade-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: os.Environ()}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer d.Stop(syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	connect := func(addr, tenant string) *client.Client {
		t.Helper()
		c, err := client.New(addr, client.WithTenant(tenant))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := connect(d.URL, "t")
	before, err := c.Deploy(ctx, &solov1.DeployRequest{ServiceId: ptr("tally"), Code: []byte(tally)})
	if err != nil {
		t.Fatal(err)
	}
	pid := d.PID()

	// Sixteen callers, each with a count of its own.
	calling, stop := context.WithCancel(ctx)
	var callers sync.WaitGroup
	var longest atomic.Int64
	counts := make([]int, 16)
	for n := range counts {
		own := connect([]string{d.URL, d.GRPC}[n%2], "t")
		callers.Go(func() {
			body, _ := json.Marshal(fmt.Sprint("caller", n))
			for calling.Err() == nil {
				began := time.Now()
				reply, err := own.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "tally", Method: "add", Body: body, ContentType: "application/json"})
				if err != nil {
					t.Errorf("caller %d: %v", n, err)
					return
				}
				counts[n]++
				if got := string(reply.GetBody()); got != fmt.Sprint(counts[n]) {
					t.Errorf("caller %d counts %s, want %d", n, got, counts[n])
					return
				}
				if took := int64(time.Since(began)); took > longest.Load() {
					longest.Store(took)
				}
			}
		})
	}
	for n := range upgrades(t) {
		out, err := exec.Command(filepath.Join(shared.bin, "solo"), "--addr", "unix:"+filepath.Join(d.Dir, "solo.sock"), "upgrade").CombinedOutput()
		if err != nil {
			t.Fatalf("upgrade %d: %v\n%s", n, err, out)
		}
	}
	stop()
	callers.Wait()
	total := 0
	for n, count := range counts {
		if count == 0 {
			t.Errorf("caller %d has made no call", n)
		}
		total += count
	}
	t.Logf("%d upgrades under %d calls, the longest took %v", upgrades(t), total, time.Duration(longest.Load()))

	after, err := c.Status(ctx, "tally")
	if err != nil || after.GetPid() != before.GetPid() || after.GetState() != "running" || after.GetRestarts() != 0 || after.GetInstance() != 1 {
		t.Errorf("after the upgrades: %v, %v", after, err)
	}
	if d.PID() != pid || syscall.Kill(pid, 0) != nil {
		t.Error("the daemon has another pid")
	}
	// Its own word still reaches the log, by the socket and by the pipe.
	if _, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "tally", Method: "log", Body: []byte(`"by the socket"`)}); err != nil {
		t.Error(err)
	}
	ticks(t, ctx, c)
	page, err := c.Logs(ctx, &solov1.LogsRequest{ServiceId: "tally", Text: "by the socket"})
	if err != nil || len(page.GetLogs()) != 1 || page.GetLogs()[0].GetStream() != "log" {
		t.Errorf("its own line: %v, %v", page, err)
	}
	events, err := c.Events(ctx, &solov1.WatchRequest{ServiceId: "tally"})
	if err != nil || len(events.GetEvents()) != 2 {
		t.Errorf("the upgrades left events of the service: %v, %v", events, err)
	}

	// It is supervised as before: an end is seen for what it is, and mended.
	c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "tally", Method: "exit"})
	waited, err := c.Wait(ctx, &solov1.WaitRequest{ServiceId: ptr("tally"), SinceId: new(uint64), Until: &solov1.WaitUntil{State: ptr("running"), EventType: ptr("service_crashed")}})
	if err != nil || waited.GetEvent().GetPayload().AsMap()["reason"] != "exit_code" || waited.GetService().GetRestarts() != 1 {
		t.Errorf("after its end: %v, %v", waited, err)
	}
	// And it ends with the daemon, whatever it has become.
	last := int(waited.GetService().GetPid())
	if err := d.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(harness.Patience); alive(last); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a service has outlived a daemon that was upgraded and killed")
		}
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// SIGKILL at any moment of a handover: the next daemon starts what should run, and
// nothing is left of the former.
func TestKillsDuringUpgrades(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-upgrade-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: os.Environ()}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	defer d.Stop(syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	var last int
	for round := range 2 * upgrades(t) {
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		if last != 0 && alive(last) {
			t.Errorf("round %d: process %d has outlived its daemon", round, last)
		}
		c, err := client.New(d.URL, client.WithTenant("t"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Deploy(ctx, &solov1.DeployRequest{ServiceId: ptr("tally"), Code: []byte(tally)}); err != nil {
			t.Fatal(err)
		}
		now, err := c.Wait(ctx, &solov1.WaitRequest{ServiceId: ptr("tally"), Until: &solov1.WaitUntil{State: ptr("running")}})
		if err != nil {
			t.Fatal(err)
		}
		report, err := c.VerifyEvents(ctx)
		if err != nil || !report.GetOk() {
			t.Fatalf("round %d: verify: %v, %v", round, report, err)
		}
		c.Close()
		last = int(now.GetService().GetPid())
		upgrade := exec.Command(filepath.Join(shared.bin, "solo"), "--addr", "unix:"+filepath.Join(d.Dir, "solo.sock"), "upgrade")
		if err := upgrade.Start(); err != nil {
			t.Fatal(err)
		}
		// The whole of it takes some 100 ms: the kills are spread over it, and after.
		time.Sleep(time.Duration(round) * 150 * time.Millisecond / time.Duration(2*upgrades(t)))
		if err := d.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		upgrade.Process.Kill()
		upgrade.Wait()
	}
}

// alive reports whether a process is there and not merely to be reaped.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := text[strings.LastIndexByte(string(text), ')')+2]
	return state != 'Z' && state != 'X'
}

func ptr[T any](v T) *T { return &v }

// ticks holds the log of the tally against what it has printed: every number once.
func ticks(t *testing.T, ctx context.Context, c *client.Client) {
	t.Helper()
	next, since := 0, uint64(0)
	for {
		page, err := c.Logs(ctx, &solov1.LogsRequest{ServiceId: "tally", Text: "tick ", SinceId: &since, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range page.GetLogs() {
			if want := fmt.Sprint("tick ", next); l.GetLine() != want {
				t.Fatalf("a line is %q, want %q", l.GetLine(), want)
			}
			next++
		}
		if len(page.GetLogs()) < 1000 {
			break
		}
		since = page.GetNextSinceId()
	}
	if next == 0 {
		t.Error("it has printed nothing")
	}
}

// A binary that will not do is refused before anything happens; one that does not
// come up gives the place back.
func TestUpgradesThatFail(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-upgrade-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: os.Environ()}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer d.Stop(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	c, err := client.New(d.URL, client.WithTenant("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, err := c.Deploy(ctx, &solov1.DeployRequest{ServiceId: ptr("tally"), Code: []byte(tally)})
	if err != nil {
		t.Fatal(err)
	}
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	upgrade := func(binary string) (string, error) {
		out, err := exec.Command(filepath.Join(shared.bin, "solo"), "--addr", "unix:"+filepath.Join(d.Dir, "solo.sock"), "upgrade", binary).CombinedOutput()
		return string(out), err
	}
	serves := func(what string) {
		t.Helper()
		now, err := c.Status(ctx, "tally")
		if err != nil || now.GetPid() != before.GetPid() {
			t.Errorf("after %s: %v, %v", what, now, err)
		}
		if _, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "tally", Method: "add", Body: []byte(`"x"`)}); err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
	for what, tc := range map[string]struct{ binary, want string }{
		"nothing":         {filepath.Join(dir, "none"), "no such file"},
		"a text":          {script("text", "hello"), "exec format error"},
		"another program": {script("other", "#!/bin/sh\necho hello\n"), "is not solod"},
		"one that fails":  {script("fails", "#!/bin/sh\necho 'no such flag' >&2; exit 2\n"), "no such flag"},
		"another form":    {script("form", "#!/bin/sh\necho '{\"handover\":99,\"schema\":99}'\n"), "form 99"},
		"an older one":    {script("older", "#!/bin/sh\necho '{\"handover\":1,\"schema\":0}'\n"), "older than the store"},
	} {
		if out, err := upgrade(tc.binary); err == nil || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v %s, want %q", what, err, out, tc.want)
		}
		serves(what)
	}
	// One that goes away between the question and the exec.
	vanishing := script("vanishing", "#!/bin/sh\nrm -f "+filepath.Join(dir, "vanishing")+"\necho '{\"handover\":1,\"schema\":99}'\n")
	if out, err := exec.Command("curl", "-sf", "--unix-socket", filepath.Join(d.Dir, "solo.sock"), "-d", `{"binary":"`+vanishing+`"}`, "http://solod/upgrade").CombinedOutput(); err != nil {
		t.Errorf("vanishing: %v %s", err, out)
	}
	untilLogged(t, d, "did not come about")
	serves("one that went away")

	// One that promises and then does not come up: it does what a solod does that
	// cannot start.
	broken := filepath.Join(dir, "broken")
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module broken\n\ngo 1.26\n", "main.go": givesBack} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", broken, ".")
	build.Dir, build.Env = src, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := upgrade(broken); err != nil {
		t.Errorf("one that gives back: %v %s", err, out) // the old one tells of its start
	}
	untilLogged(t, d, "adopted=1")
	serves("one that gave back")
	events, err := c.Events(ctx, &solov1.WatchRequest{ServiceId: "tally"})
	if err != nil || !slices.Equal(kinds(events), []string{"service_deployed", "service_started"}) {
		t.Errorf("events of the service: %v, %v", kinds(events), err)
	}
}

func kinds(page *solov1.EventPage) (out []string) {
	for _, e := range page.GetEvents() {
		out = append(out, e.GetEventType())
	}
	return out
}

func untilLogged(t *testing.T, d *harness.Daemon, text string) {
	t.Helper()
	for end := time.Now().Add(harness.Patience); ; time.Sleep(10 * time.Millisecond) {
		log, err := os.ReadFile(d.Dir + ".log")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(log), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q is not logged:\n%s", text, log)
		}
	}
}

// givesBack answers as a solod does that is asked what it can take over, and gives
// the place back when it is handed over to.
const givesBack = `package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

func init() { runtime.LockOSThread() }

func main() {
	if strings.HasSuffix(os.Args[len(os.Args)-1], "handover") {
		fmt.Println("{\"handover\":1,\"schema\":99,\"version\":\"broken\"}")
		return
	}
	fd, _ := strconv.Atoi(os.Getenv("SOLO_HANDOVER"))
	var h struct{ Exe int }
	text := make([]byte, 1<<20)
	n, _ := syscall.Pread(fd, text, 0)
	if err := json.Unmarshal(text[:n], &h); err != nil {
		panic(err)
	}
	panic(syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", h.Exe), os.Args, os.Environ()))
}
`
