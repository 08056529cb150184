// Package scenario runs Solo as its users do: a real solod, a real solo, real
// sockets and processes, one script a story. Each script carries the source of its
// services.
package scenario

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/solo-run/solo/sdk/token"
	"github.com/solo-run/solo/test/harness"
)

// What every script shares: the programs, and a build cache that is warm for the
// SDK.
var shared struct {
	bin, cache string
	// memory tells that this host has cgroups for memory.
	memory bool
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "solo-scenario-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := prepare(dir); err != nil {
			fmt.Fprintln(os.Stderr, "cannot prepare the scenarios:", err)
			return 1
		}
		return m.Run()
	}())
}

func prepare(dir string) error {
	shared.bin = filepath.Join(dir, "bin")
	if err := harness.Build("../..", shared.bin); err != nil {
		return err
	}
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "warm"), Env: os.Environ()}
	if err := d.Start(); err != nil {
		return err
	}
	err := d.Warm()
	if err == nil {
		shared.memory, err = layerOn(d.URL, "cgroup_memory")
	}
	if serr := d.Stop(syscall.SIGTERM); err == nil {
		err = serr
	}
	shared.cache = filepath.Join(d.Dir, "cache")
	return err
}

// layerOn asks the daemon for a layer of isolation.
func layerOn(url, layer string) (bool, error) {
	req, err := http.NewRequest("GET", url+"/health", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("X-Tenant-ID", "warm")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var h struct{ Isolation map[string]struct{ On bool } }
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		return false, err
	}
	return h.Isolation[layer].On, nil
}

// key finds a script's daemon in its environment.
type key struct{}

func TestScenarios(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(e.WorkDir, "data"), Env: os.Environ()}
			e.Values[key{}] = d
			e.Defer(func() {
				if err := d.Stop(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			})
			plugins, err := filepath.Abs("../../plugins")
			if err != nil {
				return err
			}
			e.Setenv("PATH", shared.bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("PLUGINS", plugins)
			e.Setenv("SOLO_ADDR", "unix:"+filepath.Join(d.Dir, "solo.sock"))
			e.Setenv("SOLO_TENANT", "t")
			return copyTree(shared.cache, filepath.Join(d.Dir, "cache"))
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "memory":
				return shared.memory, nil
			case "mount":
				return canMount(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": daemonCmd, "http": httpCmd, "let": letCmd, "until": untilCmd, "sigkill": sigkillCmd, "gone": goneCmd,
			"follow": followCmd, "load": loadCmd, "cross": crossCmd, "warned": warnedCmd, "mount": mountCmd, "damage": damageCmd,
			"metric": metricCmd, "holds": holdsCmd, "changed": changedCmd, "answers": answersCmd, "token": tokenCmd, "cap-id": capIDCmd,
		},
	})
}

// copyTree copies the warm cache, which the daemon then makes its builds' own.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(at, 0o700)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(at, text, 0o600)
	})
}

// canMount tells whether this host lets us mount.
var canMount = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp("", "solo-mount-")
	if err != nil {
		return false
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return false
	}
	return syscall.Unmount(dir, syscall.MNT_DETACH) == nil
})

// damage FILE TEXT flips a bit in each place of a file that holds the text: a store
// has old pages too.
func damageCmd(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	if !bytes.Contains(data, []byte(args[1])) {
		ts.Fatalf("%s does not hold %q", name, args[1])
	}
	other := []byte(args[1])
	other[len(other)/2] ^= 1
	data = bytes.ReplaceAll(data, []byte(args[1]), other)
	ts.Check(os.WriteFile(name, data, 0o600))
}

// mount DIR OPTIONS puts a tmpfs in the place of a directory, or mounts it anew;
// it goes with the script.
func mountCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mount DIR OPTIONS")
	}
	dir := ts.MkAbs(args[0])
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, args[1]); err != nil {
		ts.Fatalf("mount %s: %v", dir, err)
	}
	ts.Defer(func() {
		if err := daemonOf(ts).Stop(syscall.SIGTERM); err != nil {
			ts.Logf("stop: %v", err)
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			ts.Logf("unmount: %v", err)
		}
	})
}

func daemonOf(ts *testscript.TestScript) *harness.Daemon { return ts.Value(key{}).(*harness.Daemon) }

// daemon start [args] | stop | kill
func daemonCmd(ts *testscript.TestScript, neg bool, args []string) {
	d := daemonOf(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: daemon start|stop|kill")
	}
	var err error
	switch args[0] {
	case "start":
		for _, name := range []string{"SOLO_LIMITS__MAX_PER_TENANT", "SOLO_BUILD__MEMORY_MB", "SOLO_BUILD__TIMEOUT_S", "SOLO_BUILD__CACHE_DIR", "SOLO_TELEMETRY__ENABLED", "SOLO_VAULT__KEY_SOURCE", "SOLO_SECURITY__REQUIRE_CAPABILITY", "SOLO_BREAKER__FAILURES", "SOLO_BREAKER__OPEN_MS"} {
			if v := ts.Getenv(name); v != "" {
				d.Env = append(d.Env, name+"="+v)
			}
		}
		if err = d.Start(args[1:]...); err == nil {
			ts.Setenv("URL", d.URL)
			ts.Setenv("DAEMON", strconv.Itoa(d.PID()))
		}
	case "stop":
		err = d.Stop(syscall.SIGTERM)
	case "kill":
		err = d.Stop(syscall.SIGKILL)
	}
	if err != nil {
		ts.Fatalf("daemon %s: %v", args[0], err)
	}
}

// http METHOD PATH [STATUS [BODY-FILE]] calls REST over TCP as the tenant; the
// body of the answer is stdout. With OPERATOR set it is the operator who calls, over
// the socket.
func httpCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: http METHOD PATH STATUS [BODY-FILE]")
	}
	var body io.Reader
	if len(args) > 3 {
		text, err := os.ReadFile(ts.MkAbs(args[3]))
		ts.Check(err)
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequest(args[0], daemonOf(ts).URL+args[1], body)
	ts.Check(err)
	client := http.DefaultClient
	if ts.Getenv("OPERATOR") != "" {
		socket := filepath.Join(daemonOf(ts).Dir, "solo.sock")
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}
		defer transport.CloseIdleConnections()
		client = &http.Client{Transport: transport}
	} else if token := ts.Getenv("TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
		if tenant := ts.Getenv("TENANT_HEADER"); tenant != "" {
			req.Header.Set("X-Tenant-ID", tenant)
		}
	} else {
		req.Header.Set("X-Tenant-ID", ts.Getenv("SOLO_TENANT"))
	}
	req.Header.Set("Accept", cmp.Or(ts.Getenv("ACCEPT"), "application/json"))
	if key := ts.Getenv("IDEMPOTENCY_KEY"); key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Stdout().Write(text)
	if got := strconv.Itoa(resp.StatusCode); got != args[2] {
		ts.Fatalf("%s %s is %s, want %s: %s", args[0], args[1], got, args[2], text)
	}
}

// status asks for a service.
func status(ts *testscript.TestScript, id string) map[string]any {
	req, err := http.NewRequest("GET", daemonOf(ts).URL+"/services/"+id, nil)
	ts.Check(err)
	req.Header.Set("X-Tenant-ID", ts.Getenv("SOLO_TENANT"))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	var out map[string]any
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	ts.Check(dec.Decode(&out))
	return out
}

// let NAME SERVICE FIELD sets a variable to a field of a service.
func letCmd(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := status(ts, args[1])[args[2]]
	if !ok || v == nil {
		ts.Fatalf("%s has no %s", args[1], args[2])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// until SERVICE FIELD VALUE waits until a field of a service has a value.
func untilCmd(ts *testscript.TestScript, neg bool, args []string) {
	var last map[string]any
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		last = status(ts, args[0])
		if fmt.Sprint(last[args[1]]) == args[2] {
			return
		}
	}
	ts.Fatalf("%s: %s is %v and does not become %s; last_exit %v", args[0], args[1], last[args[1]], args[2], last["last_exit"])
}

// warned SERVICE PLACE TEXT waits until the build of a service has a warning.
func warnedCmd(ts *testscript.TestScript, neg bool, args []string) {
	var last string
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		build, _ := status(ts, args[0])["build"].(map[string]any)
		warnings, _ := build["warnings"].([]any)
		for _, w := range warnings {
			w := w.(map[string]any)
			last = fmt.Sprintf("%v:%v: %v", w["file"], w["line"], w["message"])
			if strings.HasPrefix(last, args[1]) && strings.Contains(last, args[2]) {
				return
			}
		}
	}
	ts.Fatalf("%s has no such warning; the last is %q", args[0], last)
}

// holds DIR TEXT tells whether a file under the directory holds the text.
func holdsCmd(ts *testscript.TestScript, neg bool, args []string) {
	found := ""
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(args[1])) {
			found = path
		}
		return err
	})
	ts.Check(err)
	if neg == (found != "") {
		ts.Fatalf("%s: %q is found in %q", args[0], args[1], found)
	}
}

// invoke calls a method as the tenant.
func invoke(ts *testscript.TestScript, service, method string) (status int, body string) {
	req, err := http.NewRequest("POST", daemonOf(ts).URL+"/services/"+service+"/invoke/"+method, nil)
	ts.Check(err)
	req.Header.Set("X-Tenant-ID", ts.Getenv("SOLO_TENANT"))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return resp.StatusCode, string(text)
}

// changed SERVICE VALUE waits until the service has seen a value of its secret.
func changedCmd(ts *testscript.TestScript, neg bool, args []string) {
	var last string
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, last = invoke(ts, args[0], "seen"); last == strconv.Quote(args[1]) {
			return
		}
	}
	ts.Fatalf("%s has seen %s, and not %s", args[0], last, args[1])
}

// answers SERVICE METHOD waits until a call succeeds.
func answersCmd(ts *testscript.TestScript, neg bool, args []string) {
	var last string
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		status := 0
		if status, last = invoke(ts, args[0], args[1]); status == http.StatusOK {
			return
		}
	}
	ts.Fatalf("%s does not answer: %s", args[0], last)
}

// token [FILE] has http show the token in the file, or none.
func tokenCmd(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv("TOKEN", "")
	if len(args) > 0 {
		ts.Setenv("TOKEN", strings.TrimSpace(ts.ReadFile(args[0])))
	}
}

// cap-id FILE NAME sets a variable to the id in a token.
func capIDCmd(ts *testscript.TestScript, neg bool, args []string) {
	t, err := token.Parse(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Setenv(args[1], base64.RawURLEncoding.EncodeToString(t.ID[:]))
}

// metric LINE waits until the tenant's metrics have the line.
func metricCmd(ts *testscript.TestScript, neg bool, args []string) {
	var text []byte
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		req, err := http.NewRequest("GET", daemonOf(ts).URL+"/metrics", nil)
		ts.Check(err)
		req.Header.Set("X-Tenant-ID", ts.Getenv("SOLO_TENANT"))
		resp, err := http.DefaultClient.Do(req)
		ts.Check(err)
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		ts.Check(err)
		if strings.Contains(string(text), "\n"+args[0]+"\n") {
			return
		}
	}
	ts.Fatalf("%s is not among the metrics:\n%s", args[0], text)
}

// sigkill SERVICE kills the process of a service.
func sigkillCmd(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(fmt.Sprint(status(ts, args[0])["pid"]))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}

// gone PID… waits until the processes are gone; a zombie that pid 1 has not
// reaped yet is.
func goneCmd(ts *testscript.TestScript, neg bool, args []string) {
	for _, arg := range args {
		for end := time.Now().Add(harness.Patience); ; time.Sleep(5 * time.Millisecond) {
			text, err := os.ReadFile("/proc/" + arg + "/stat")
			if err != nil || strings.Contains(string(text), ") Z ") {
				break
			}
			if time.Now().After(end) {
				ts.Fatalf("process %s is still there", arg)
			}
		}
	}
}

// follow NAME PATH SINCE COUNT reads COUNT records of a stream and prints
// "id event" of each.
func followCmd(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", daemonOf(ts).URL+args[0], nil)
	ts.Check(err)
	req.Header.Set("X-Tenant-ID", ts.Getenv("SOLO_TENANT"))
	req.Header.Set("Last-Event-ID", args[1])
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	count, err := strconv.Atoi(args[2])
	ts.Check(err)
	var id string
	buf := make([]byte, 0, 1<<20)
	chunk := make([]byte, 4096)
	for count > 0 {
		n, err := resp.Body.Read(chunk)
		if err != nil {
			ts.Fatalf("the stream ended with %d records to come: %v", count, err)
		}
		buf = append(buf, chunk[:n]...)
		for {
			line, rest, ok := bytes.Cut(buf, []byte("\n"))
			if !ok {
				break
			}
			buf = rest
			if v, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
				id = string(v)
			}
			if v, ok := bytes.CutPrefix(line, []byte("event: ")); ok && count > 0 {
				fmt.Fprintf(ts.Stdout(), "%s %s\n", id, v)
				count--
			}
		}
	}
}

// load CALLERS SERVICE METHOD calls side by side until the daemon is killed by
// -9 in the middle, and checks every answer that came.
func loadCmd(ts *testscript.TestScript, neg bool, args []string) {
	callers, err := strconv.Atoi(args[0])
	ts.Check(err)
	d := daemonOf(ts)
	url := d.URL + "/services/" + args[1] + "/invoke/" + args[2]
	var group sync.WaitGroup
	var mu sync.Mutex
	good, bad := 0, ""
	enough := make(chan struct{})
	for range callers {
		group.Go(func() {
			for {
				req, err := http.NewRequest("POST", url, strings.NewReader("payload"))
				if err != nil {
					panic(err)
				}
				req.Header.Set("X-Tenant-ID", "t")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return // the daemon is gone
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					return
				}
				mu.Lock()
				if resp.StatusCode == http.StatusOK && string(text) == "payload" {
					if good++; good == 500 {
						close(enough)
					}
				} else if bad == "" {
					bad = resp.Status + " " + string(text)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(harness.Patience):
		ts.Fatalf("500 calls do not get through: %s", bad)
	}
	if err := d.Stop(syscall.SIGKILL); err != nil {
		ts.Fatalf("%v", err)
	}
	group.Wait()
	if bad != "" {
		ts.Fatalf("an answer under load: %s", bad)
	}
}

// cross BODY-FILE SERVICE deploys the same id twice at once, one of which must be
// a conflict at once, and kills the service while the other is under way.
func crossCmd(ts *testscript.TestScript, neg bool, args []string) {
	body, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	url := daemonOf(ts).URL + "/services"
	type answer struct {
		status int
		text   string
	}
	do := func(method, url string, body []byte) answer {
		req, err := http.NewRequest(method, url, bytes.NewReader(body))
		if err != nil {
			return answer{0, err.Error()}
		}
		req.Header.Set("X-Tenant-ID", "t")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return answer{0, err.Error()}
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return answer{0, err.Error()}
		}
		return answer{resp.StatusCode, string(text)}
	}
	answers := make(chan answer, 2)
	for range 2 {
		go func() { answers <- do("POST", url, body) }()
	}
	if a := <-answers; a.status != http.StatusConflict || !strings.Contains(a.text, "under way") {
		ts.Fatalf("the second deploy: %d %s", a.status, a.text)
	}
	if a := do("DELETE", url+"/"+args[1], nil); a.status != http.StatusOK {
		ts.Fatalf("the kill: %d %s", a.status, a.text)
	}
	if a := <-answers; a.status != http.StatusConflict || !strings.Contains(a.text, "killed during its deploy") {
		ts.Fatalf("the first deploy: %d %s", a.status, a.text)
	}
}

// The shim runs before the rest of its binary is initialised, or each start of a
// service waits for that.
func TestTheShimIsEarly(t *testing.T) {
	cmd := exec.Command(filepath.Join(shared.bin, "solod"), "sandbox-exec")
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 111 {
		t.Fatalf("the shim without its orders: %v\n%s", err, out)
	}
	for _, late := range []string{"google.golang.org/protobuf/reflect/protodesc", "google.golang.org/grpc ", "path/filepath"} {
		if bytes.Contains(out, []byte("init "+late)) {
			t.Errorf("%s is initialised before the shim", late)
		}
	}
}
