package scenario

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/test/harness"
)

// manager is a service manager that listens as systemd does.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T, dir string) (*manager, string) {
	path := filepath.Join(dir, "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn}, path
}

// until reads messages up to one that holds the word, and returns all of them.
func (m *manager) until(word string) string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(harness.Patience))
	var all []string
	buf := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("%s was not told, only %q: %v", word, all, err)
		}
		all = append(all, string(buf[:n]))
		if strings.Contains(all[len(all)-1], word) {
			return strings.Join(all, "\n")
		}
	}
}

// What systemd is told: that the daemon is ready, that it lives, that it reloads,
// that it stops. A reload takes over what can change live, or nothing.
func TestTheServiceManagerIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-manager-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	m, socket := newManager(t, dir)
	file := filepath.Join(dir, "solo.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[limits]\nmax_total = 5\n")
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"),
		Env: append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start("--config", file); err != nil {
		t.Fatal(err)
	}
	defer d.Stop(syscall.SIGKILL)
	m.until("READY=1")
	m.until("WATCHDOG=1")
	m.until("WATCHDOG=1")

	// lastReload is the newest event of its kind.
	lastReload := func() (payload struct{ Changed, Refused []string }) {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(d.Dir, "solo.sock"))
		}}}
		defer client.CloseIdleConnections()
		req, err := http.NewRequest("GET", "http://solod/events?event_type=config_reloaded", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var page struct {
			Events []struct {
				Payload struct{ Changed, Refused []string } `json:"payload"`
			} `json:"events"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 {
			t.Fatal("no reload is recorded")
		}
		return page.Events[len(page.Events)-1].Payload
	}
	hangup := func() {
		if err := syscall.Kill(d.PID(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if told := m.until("RELOADING=1"); !strings.Contains(told, "MONOTONIC_USEC=") {
			t.Errorf("a reload was told as %q", told)
		}
		m.until("READY=1")
	}
	write("[limits]\nmax_total = 1\n")
	hangup()
	if got := lastReload(); strings.Join(got.Changed, " ") != "limits.max_total" || len(got.Refused) != 0 {
		t.Errorf("the reload was recorded as %+v", got)
	}
	if err := d.Warm(); err != nil {
		t.Fatal(err)
	}
	if status := deployAs(t, d.URL, "second"); status != http.StatusTooManyRequests {
		t.Errorf("a second service is %d under the new bound, want 429", status)
	}

	// What cannot change live takes nothing with it.
	write("[limits]\nmax_total = 9\n[solo]\nshutdown_s = 3\n")
	hangup()
	if got := lastReload(); len(got.Changed) != 0 || strings.Join(got.Refused, " ") != "solo.shutdown_s" {
		t.Errorf("the reload was recorded as %+v", got)
	}
	if status := deployAs(t, d.URL, "second"); status != http.StatusTooManyRequests {
		t.Errorf("a second service is %d after a reload that was refused, want 429", status)
	}

	// A broken file changes nothing.
	write("[limits]\nmax_total = \"many\"\n")
	hangup()
	if status := deployAs(t, d.URL, "second"); status != http.StatusTooManyRequests {
		t.Errorf("a second service is %d after a broken reload, want 429", status)
	}
	if err := d.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.until("STOPPING=1")
}

func deployAs(t *testing.T, url, id string) int {
	t.Helper()
	body := `{"tenant_id":"warm","service_id":"` + id + `","code":"package main\nimport \"github.com/solo-run/solo/sdk\"\nfunc main() { sdk.Serve(sdk.Methods{}) }\n"}`
	resp, err := http.Post(url+"/services", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
