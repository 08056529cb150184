package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/test/harness"
)

// doubling is n types or constants, each twice as large as the one before.
func doubling(n int, first, next string) string {
	var b strings.Builder
	b.WriteString(first)
	for i := range n {
		fmt.Fprintf(&b, next, i+1, i, i)
	}
	return b.String()
}

// Sources that make a compiler work without end, or eat without end, end within
// the bounds of a build, and other callers wait for nothing.
func TestSourceBombs(t *testing.T) {
	if !shared.memory {
		t.Skip("this host has no cgroup for memory, which is what ends most of them; CI runs as root on one that has")
	}
	dir, err := os.MkdirTemp("", "solo-bombs-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: append(os.Environ(), "SOLO_BUILD__MEMORY_MB=512", "SOLO_BUILD__TIMEOUT_S=10")}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}()
	if err := d.Warm(); err != nil {
		t.Fatal(err)
	}
	// One caller asks all the while.
	stop, asked := make(chan struct{}), make(chan []time.Duration)
	go func() {
		var times []time.Duration
		for {
			select {
			case <-stop:
				asked <- times
				return
			default:
			}
			began := time.Now()
			resp, err := http.Get(d.URL + "/health")
			if err != nil {
				t.Error(err)
			} else {
				resp.Body.Close()
			}
			times = append(times, time.Since(began))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	for _, tc := range []struct {
		name, source, limit string
	}{
		{"constants that double", doubling(31, "const c0 = \"aaaaaaaaaaaaaaaa\"\n", "const c%d = c%d + c%d\n") + "var x = c31\n", "memory"},
		{"a literal of a billion bytes", "var x = [1 << 27]int{1<<27 - 1: 1}\n", "memory"},
		{"structs that double, compared", doubling(40, "type t0 struct{ a, b string }\n", "type t%d struct{ a t%d; b t%d }\n") + "var x, y t40\nvar z = x == y\n", "time"},
		{"three hundred thousand signs", "var x = " + strings.Repeat("- ", 300_000) + "1\n", ""},
		{"twenty thousand funcs in one another", "var x = " + strings.Repeat("func() {_ = ", 20_000) + "1" + strings.Repeat("}", 20_000) + "\n", "memory"},
		{"an array too large for any machine", "var x [1 << 35]byte\n", ""},
	} {
		body, err := json.Marshal(map[string]any{"service_id": "bomb", "code": "package main\n\n" + tc.source + "\nfunc main() { _ = x }\n"})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		resp, err := http.Post(d.URL+"/services", "application/json", bytes.NewReader(bytes.Replace(body, []byte("{"), []byte(`{"tenant_id":"t",`), 1)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Error   string
			Details struct{ Limit string }
		}
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		t.Logf("%s: %s %q in %v", tc.name, e.Error, e.Details.Limit, took.Round(time.Millisecond))
		if resp.StatusCode != http.StatusUnprocessableEntity || e.Error != "compile_failed" || e.Details.Limit != tc.limit {
			t.Errorf("%s: %d %.300s", tc.name, resp.StatusCode, text)
		}
		if took > 20*time.Second {
			t.Errorf("%s: it took %v", tc.name, took)
		}
	}
	close(stop)
	times := <-asked
	slices.Sort(times)
	if p99 := times[len(times)*99/100]; p99 > 500*time.Millisecond {
		t.Errorf("of %d calls meanwhile, one in a hundred took %v and more", len(times), p99)
	}
	t.Logf("%d calls meanwhile: median %v, p99 %v", len(times), times[len(times)/2], times[len(times)*99/100])
	if resp, err := http.Get(d.URL + "/health/ready"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}
