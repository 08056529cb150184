// Command bench measures Solo beside yardsticks: both sides of each ratio take
// turns in one run, and the median counts. It prints a table, and writes it to the
// file that -o names.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/solo-run/solo/sdk/wire"
	"github.com/solo-run/solo/test/harness"
)

func main() {
	log.SetFlags(0)
	rounds := flag.Int("n", 9, "rounds of each measurement")
	out := flag.String("o", "", "write the table into this `file`, in the place of the one that is there")
	services := flag.Int("services", 1000, "how many services for the rows of many; 0 leaves them out")
	only := flag.String("only", "", "run one `step`: deploys, two, starts, kills, frames, invokes, agents, events or scale")
	echoes := flag.Bool("echo", false, "be the bare echo handler (for bench's own use)")
	flag.Parse()
	if *echoes {
		log.Fatal(serveEcho())
	}
	dir, err := os.MkdirTemp("", "solo-bench-")
	if err != nil {
		log.Fatal(err)
	}
	b := &bench{rounds: *rounds, dir: dir, services: *services, only: *only}
	table, err := b.run()
	os.RemoveAll(dir)
	if err != nil {
		log.Fatal("bench: ", err)
	}
	fmt.Print(table)
	if *out != "" {
		if err := replaceTable(*out, table); err != nil {
			log.Fatal("bench: ", err)
		}
	}
}

// replaceTable puts the table in the place of the first one of a document.
func replaceTable(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), tableHead)
	if !found {
		return fmt.Errorf("%s has no table that begins with %q", path, tableHead)
	}
	_, after, _ := strings.Cut(rest, "\n\n")
	return os.WriteFile(path, []byte(before+table+"\n"+after), 0o644)
}

const tableHead = "| ratio | A, median (min–max) |"

type bench struct {
	rounds   int
	services int
	only     string
	dir      string
	d        *harness.Daemon
	known    string
	table    strings.Builder
	n        int
}

func (b *bench) run() (string, error) {
	bin := filepath.Join(b.dir, "bin")
	if err := harness.Build(".", bin); err != nil {
		return "", err
	}
	b.d = &harness.Daemon{Bin: bin, Dir: filepath.Join(b.dir, "data"), Env: os.Environ()}
	if err := b.d.Start(); err != nil {
		return "", err
	}
	defer b.d.Stop(syscall.SIGTERM)
	if err := b.untilWarm(); err != nil {
		return "", err
	}
	if err := b.prepare(); err != nil {
		return "", err
	}
	b.table.WriteString(tableHead + " B, median (min–max) | A/B | target |\n|---|---|---|---|---|\n")
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"deploys", b.deploys}, {"two", b.twoDeploys}, {"starts", b.starts}, {"kills", b.kills}, {"frames", b.frames},
		{"invokes", b.invokes}, {"agents", b.agents}, {"events", b.events}, {"scale", b.scale},
	} {
		if b.only != "" && b.only != step.name {
			continue
		}
		if err := step.run(); err != nil {
			return "", err
		}
	}
	return b.table.String(), nil
}

// untilWarm waits until the whole warm-up is done, so that it takes no core away.
func (b *bench) untilWarm() error {
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var h struct {
			WarmUp struct{ State, Detail string } `json:"warm_up"`
		}
		if _, err := b.call("GET", "/health", nil, &h); err != nil {
			return err
		}
		switch h.WarmUp.State {
		case "done":
			return nil
		case "failed":
			return fmt.Errorf("the warm-up failed: %s", h.WarmUp.Detail)
		}
	}
	return fmt.Errorf("the warm-up does not end")
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}

// call makes a request as a tenant and reads its JSON.
func (b *bench) call(method, path string, body, out any) (int, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, b.d.URL+path, r)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Tenant-ID", "bench")
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if out != nil && resp.StatusCode < 300 {
		return resp.StatusCode, json.Unmarshal(text, out)
	}
	if resp.StatusCode >= 300 && out != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: %s %s", method, path, resp.Status, text)
	}
	return resp.StatusCode, nil
}

// pair runs both sides in turn and adds a row.
func (b *bench) pair(name, target string, a, y func() (time.Duration, error)) error {
	var as, ys []time.Duration
	for range b.rounds {
		for _, side := range []struct {
			f   func() (time.Duration, error)
			out *[]time.Duration
		}{{a, &as}, {y, &ys}} {
			d, err := side.f()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*side.out = append(*side.out, d)
		}
	}
	b.row(name, target, as, ys)
	return nil
}

func (b *bench) row(name, target string, as, ys []time.Duration) {
	slices.Sort(as)
	slices.Sort(ys)
	ma, my := as[len(as)/2], ys[len(ys)/2]
	show := func(d []time.Duration) string {
		return fmt.Sprintf("%s (%s–%s)", round(d[len(d)/2]), round(d[0]), round(d[len(d)-1]))
	}
	b.line(name, target, show(as), show(ys), float64(ma)/float64(my))
}

func (b *bench) line(name, target, a, y string, ratio float64) {
	line := fmt.Sprintf("| %s | %s | %s | %.2f | %s |\n", name, a, y, ratio, target)
	b.table.WriteString(line)
	fmt.Fprint(os.Stderr, line)
}

func round(d time.Duration) string {
	switch {
	case d > 100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}

func timed(f func() error) (time.Duration, error) {
	began := time.Now()
	err := f()
	return time.Since(began), err
}

// source is the smallest service, changed.
func (b *bench) source() string {
	b.n++
	return fmt.Sprintf("package main\n\nimport (\n\t\"context\"\n\n\t\"github.com/solo-run/solo/sdk\"\n)\n\nconst changed = %d\n\nfunc main() {\n\t_ = changed\n\tsdk.Serve(sdk.HandlerFunc(func(_ context.Context, r *sdk.Request) (*sdk.Response, error) { return &sdk.Response{Body: r.Body}, nil }))\n}\n", time.Now().UnixNano()+int64(b.n))
}

func (b *bench) deploy(id, code string) error {
	var s map[string]any
	_, err := b.call("POST", "/services", map[string]string{"service_id": id, "code": code}, &s)
	return err
}

func (b *bench) remove(id string) error {
	var s map[string]any
	_, err := b.call("DELETE", "/services/"+id+"?force=true&purge=true", nil, &s)
	return err
}

// goBuild builds a changed program of one file with the flags.
func (b *bench) goBuild(dir, code string, flags ...string) error {
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(code), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", filepath.Join(b.dir, "built"), ".")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

const hello = "package main\n\nimport \"fmt\"\n\nconst changed = %d\n\nfunc main() { fmt.Println(changed) }\n"

// best are the flags of Solo's own builds.
var best = []string{"-trimpath", "-ldflags=-s -w"}

func (b *bench) helloDir() string { return filepath.Join(b.dir, "hello") }

// prepare makes what several steps use: a hello world, and the service "known".
func (b *bench) prepare() error {
	if err := os.Mkdir(b.helloDir(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.helloDir(), "go.mod"), []byte("module hello\n\ngo 1.26\n"), 0o600); err != nil {
		return err
	}
	if err := b.goBuild(b.helloDir(), fmt.Sprintf(hello, 0), best...); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(b.dir, "built"), filepath.Join(b.dir, "built-hello")); err != nil {
		return err
	}
	b.known = b.source()
	return b.deploy("known", b.known)
}

func (b *bench) deploys() error {
	changed := func() (time.Duration, error) {
		id, code := fmt.Sprint("d", b.n), b.source()
		d, err := timed(func() error { return b.deploy(id, code) })
		if err == nil {
			err = b.remove(id)
		}
		return d, err
	}
	err := b.pair("deploy of changed source / go build of a hello world", "≤ 1.25", changed, func() (time.Duration, error) {
		b.n++
		code := fmt.Sprintf(hello, time.Now().UnixNano())
		return timed(func() error { return b.goBuild(b.helloDir(), code, best...) })
	})
	if err != nil {
		return err
	}
	stock := "test/bench/testdata/stock"
	text, err := os.ReadFile(filepath.Join(stock, "main.go"))
	if err != nil {
		return err
	}
	// A directory inside the module, so that its dependencies are found; put back at
	// the end.
	defer os.WriteFile(filepath.Join(stock, "main.go"), text, 0o644)
	plain := func() (time.Duration, error) {
		code := strings.Replace(string(text), "changed = 0", fmt.Sprint("changed = ", time.Now().UnixNano()), 1)
		return timed(func() error {
			if err := b.goBuild(stock, code); err != nil {
				return err
			}
			return startStock(filepath.Join(b.dir, "built"))
		})
	}
	if _, err := plain(); err != nil {
		return err
	}
	if err := b.pair("deploy of changed source / stock go-plugin service: plain go build, start, first call", "≤ 0.27", changed, plain); err != nil {
		return err
	}
	known := func() (time.Duration, error) {
		var s map[string]any
		if _, err := b.call("DELETE", "/services/known?force=true", nil, &s); err != nil {
			return 0, err
		}
		return timed(func() error { return b.deploy("known", b.known) })
	}
	binary, err := b.artifact("known")
	if err != nil {
		return err
	}
	return b.pair("deploy of known source / bare start of the same binary to its first call", "≤ 1.2", known, func() (time.Duration, error) { return b.bareStart(binary) })
}

// artifact is the file of a service's binary.
func (b *bench) artifact(id string) (string, error) {
	var s struct{ Artifact string }
	if _, err := b.call("GET", "/services/"+id, nil, &s); err != nil {
		return "", err
	}
	return filepath.Join(b.d.Dir, "artifacts", s.Artifact), nil
}

func stockConfig(binary string) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: wire.Version, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		Plugins:          plugin.PluginSet{},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, Cmd: exec.Command(binary),
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard}),
	}
}

// startStock starts a plugin with go-plugin's own host and pings it.
func startStock(binary string) error {
	c := plugin.NewClient(stockConfig(binary))
	defer c.Kill()
	protocol, err := c.Client()
	if err != nil {
		return err
	}
	return protocol.Ping()
}

// bareStart runs a service's binary without confinement to its first call.
func (b *bench) bareStart(binary string) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "sb")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(binary)
	cmd.Env = []string{wire.CookieKey + "=" + wire.CookieValue, wire.SocketDirEnv + "=" + dir}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	if _, err := out.Read(make([]byte, 256)); err != nil {
		return 0, err
	}
	c := wire.NewClient(func(ctx context.Context) (*wire.Conn, error) {
		return wire.DialUnix(ctx, filepath.Join(dir, wire.SocketName))
	})
	defer c.Close()
	_, err = c.Call(context.Background(), &wire.Head{Kind: wire.KindCall}, nil, 0)
	return time.Since(began), err
}

// starts: a restart of a service to its first answer, and a hello world.
func (b *bench) starts() error {
	var s map[string]any
	return b.pair("restart by hand to its answer / exec and exit of a hello world", "≤ 1.8", func() (time.Duration, error) {
		return timed(func() error {
			_, err := b.call("POST", "/services/known/restart", nil, &s)
			return err
		})
	}, func() (time.Duration, error) { return timed(exec.Command(filepath.Join(b.dir, "built-hello")).Run) })
}

// kills: how long a service is away after kill -9.
func (b *bench) kills() error {
	binary, err := b.artifact("known")
	if err != nil {
		return err
	}
	return b.pair("kill -9 of a service to its next answer / bare wait, exec and first call", "≤ 1.8", func() (time.Duration, error) {
		// The restarts before it must not make this one wait.
		var s struct{ PID int }
		if _, err := b.call("POST", "/services/known/restart", nil, &s); err != nil {
			return 0, err
		}
		return timed(func() error {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				return err
			}
			for {
				var now struct {
					PID   int
					State string
				}
				if _, err := b.call("GET", "/services/known", nil, &now); err != nil {
					return err
				}
				if now.PID != s.PID {
					break
				}
			}
			status, err := b.call("POST", "/services/known/invoke/x", nil, nil)
			if err == nil && status != 200 {
				err = fmt.Errorf("the next call is answered with %d", status)
			}
			return err
		})
	}, func() (time.Duration, error) {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		began := time.Now()
		cmd.Process.Kill()
		cmd.Wait()
		waited := time.Since(began)
		d, err := b.bareStart(binary)
		return waited + d, err
	})
}
