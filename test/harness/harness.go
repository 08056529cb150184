// Package harness runs a real solod for tests and benchmarks.
package harness

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Build builds solod and solo of this tree into a directory. root is the tree's,
// flags go before the others.
func Build(root, bin string, flags ...string) error {
	args := append(append([]string{"build"}, flags...), "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", bin+"/", "./cmd/solod", "./cmd/solo")
	build := exec.Command("go", args...)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Daemon is one solod.
type Daemon struct {
	// Bin holds the programs, Dir is the data directory.
	Bin, Dir string
	// Env is the environment of solod, but for what the harness sets.
	Env []string
	// Log is where solod logs to; "" is beside the data directory.
	Log string
	// URL is where REST is served once it is started, GRPC the address of gRPC.
	URL, GRPC string

	cmd  *exec.Cmd
	log  *os.File
	at   int64
	done chan struct{}
}

// PID is solod's, 0 when it does not run.
func (d *Daemon) PID() int {
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// Patience bounds what is waited for: long, since machines are shared.
const Patience = 90 * time.Second

// Start runs solod and returns when it is ready.
func (d *Daemon) Start(args ...string) error {
	if err := d.Launch(args...); err != nil {
		return err
	}
	return d.Ready()
}

// Launch runs solod.
func (d *Daemon) Launch(args ...string) error {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return err
	}
	if d.Log == "" {
		d.Log = d.Dir + ".log"
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	at, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(d.Bin, "solod"), args...)
	cmd.Env = append(append([]string{}, d.Env...), "SOLO_SOLO__DATA_DIR="+d.Dir, "SOLO_SOLO__HTTP_PORT=0", "SOLO_SOLO__LISTEN_PORT=0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	d.cmd, d.log, d.at, d.done = cmd, log, at, done
	return nil
}

// Ready waits until solod is ready; it is an error where it ends instead.
func (d *Daemon) Ready() error {
	for end := time.Now().Add(Patience); time.Now().Before(end); {
		select {
		case <-d.done:
			text, _ := os.ReadFile(d.Log)
			return fmt.Errorf("solod ended: %v\n%s", d.cmd.ProcessState, text[d.at:])
		default:
		}
		if d.ready(d.at) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("solod does not get ready")
}

// ready finds the address in what was logged since at, and asks.
func (d *Daemon) ready(at int64) bool {
	text, err := os.ReadFile(d.Log)
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(text[at:]), " rest=")
	if !ok {
		return false
	}
	d.URL = "http://" + strings.Fields(rest)[0]
	if _, rest, ok = strings.Cut(rest, " grpc="); !ok {
		return false
	}
	d.GRPC = "grpc://" + strings.Fields(rest)[0]
	resp, err := http.Get(d.URL + "/health/ready")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Warm deploys the least service, which waits for the SDK's warm-up.
func (d *Daemon) Warm() error {
	body := `{"tenant_id":"warm","service_id":"warm","code":"package main\nimport \"github.com/solo-run/solo/sdk\"\nfunc main() { sdk.Serve(sdk.Methods{}) }\n"}`
	resp, err := http.Post(d.URL+"/services", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

// Stop signals solod and waits for its end.
func (d *Daemon) Stop(sig syscall.Signal) error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.done:
	case <-time.After(Patience):
		return fmt.Errorf("solod %d does not end", d.cmd.Process.Pid)
	}
	state := d.cmd.ProcessState
	d.cmd = nil
	d.log.Close()
	if sig == syscall.SIGTERM && !state.Success() {
		return fmt.Errorf("solod ended: %v", state)
	}
	return nil
}
