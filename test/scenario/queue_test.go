package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/test/harness"
)

// More builds than may wait are refused with when to come again; callers that go
// away end theirs; and the API answers meanwhile.
func TestTheBuildQueueIsBounded(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-queue-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: append(os.Environ(), "SOLO_LIMITS__MAX_PER_TENANT=1000")}
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
	deploy := func(ctx context.Context, n int, test string) (int, string, string) {
		files := map[string]string{"main.go": fmt.Sprintf("package main\n\nimport \"github.com/solo-run/solo/sdk\"\n\nconst n = %d\n\nfunc main() { sdk.Serve(sdk.Methods{}) }\n", n)}
		if test != "" {
			files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) { " + test + " }\n"
		}
		body, err := json.Marshal(map[string]any{"service_id": fmt.Sprint("q", n), "files": files})
		if err != nil {
			t.Error(err)
		}
		req, err := http.NewRequestWithContext(ctx, "POST", d.URL+"/services", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, "", ""
		}
		req.Header.Set("X-Tenant-ID", "t")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, "", err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, "", err.Error()
		}
		return resp.StatusCode, resp.Header.Get("Retry-After"), string(text)
	}
	// Builds that never end by themselves fill what runs and what waits.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	full := make(chan string, 200)
	for n := range 100 {
		callers.Go(func() {
			if status, retry, text := deploy(ctx, n, "select {}"); status == http.StatusTooManyRequests {
				full <- retry + " " + text
			}
		})
	}
	select {
	case text := <-full:
		if text[0] < '1' || text[0] > '9' || !bytes.Contains([]byte(text), []byte(`"error":"rate_limited"`)) {
			t.Errorf("the refusal: %s", text)
		}
	case <-time.After(harness.Patience):
		t.Fatal("a hundred builds at once are taken")
	}
	resp, err := http.Get(d.URL + "/health")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("meanwhile: %v, %v", resp, err)
	}
	if err == nil {
		resp.Body.Close()
	}
	cancel()
	callers.Wait()
	// Once the callers are gone, so are their builds: fifty that mean it get through,
	// each at the latest when it comes again.
	var group sync.WaitGroup
	for n := range 50 {
		group.Go(func() {
			for end := time.Now().Add(harness.Patience); ; time.Sleep(100 * time.Millisecond) {
				status, _, text := deploy(t.Context(), 1000+n, "")
				if status == http.StatusCreated {
					return
				}
				if status != http.StatusTooManyRequests || time.Now().After(end) {
					t.Errorf("deploy %d of fifty at once: %d %s", n, status, text)
					return
				}
			}
		})
	}
	group.Wait()
}
