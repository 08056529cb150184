// Package crash kills solod with -9 while it works, again and again, and holds
// what it says afterwards against what it had acknowledged.
package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/test/harness"
)

// rounds is how often solod is killed; $SOLO_CRASH_ROUNDS says more. The seed is
// printed, and $SOLO_CRASH_SEED takes it.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("SOLO_CRASH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 4
}

const writers = 8

const source = `package main

import (
	"context"

	"github.com/solo-run/solo/sdk"
)

func main() {
	sdk.Serve(sdk.HandlerFunc(func(context.Context, *sdk.Request) (*sdk.Response, error) { return nil, nil }))
}
`

// writer changes one service, and remembers what was acknowledged.
type writer struct {
	id string
	// acknowledged is the state after the last answer: running, stopped or gone.
	acknowledged string
	// asked is the state that a command without an answer would make.
	asked    string
	versions int
	pids     map[int]bool
	// changing writers deploy another source each time that nothing runs; code is the
	// last one.
	changing bool
	code     string
	deploys  int
}

func newWriter(id string, changing bool) *writer {
	return &writer{id: id, acknowledged: "gone", pids: map[int]bool{}, changing: changing, code: source}
}

func TestKillsUnderLoad(t *testing.T) {
	seed := seeded(t)
	dir, err := os.MkdirTemp("", "solo-crash-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: released(t), Dir: filepath.Join(dir, "data"), Env: os.Environ()}
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
	all := make([]*writer, writers)
	for i := range all {
		all[i] = newWriter(fmt.Sprint("w", i), false)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	answers := 0
	for round := range rounds() {
		var group sync.WaitGroup
		var mu sync.Mutex
		for i, w := range all {
			r := rand.New(rand.NewPCG(seed, uint64(round*writers+i)+100))
			group.Go(func() {
				n := w.work(t, d.URL, r)
				mu.Lock()
				answers += n
				mu.Unlock()
			})
		}
		// The moment is the seed's; what it meets is the machine's.
		time.Sleep(time.Duration(200+random.IntN(1500)) * time.Millisecond)
		if err := d.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		group.Wait()
		for _, w := range all {
			for pid := range w.pids {
				gone(t, pid)
			}
		}
		if err := d.Start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, w := range all {
			w.check(t, d.URL, round)
		}
		verify(t, d.URL, round)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d answers", rounds(), answers)
}

func call(method, url string, body any, out any) (int, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Tenant-ID", "crash")
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
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
	return resp.StatusCode, nil
}

type service struct {
	State   string
	Version int
	PID     *int
}

// work gives commands until the daemon is gone, and returns how many were
// answered.
func (w *writer) work(t *testing.T, url string, r *rand.Rand) (answers int) {
	for {
		var s service
		if w.changing && w.acknowledged != "running" {
			w.deploys++
			w.code = fmt.Sprintf("%s\n// %s %d\n", source, w.id, w.deploys)
		}
		method, path, body, want := "POST", "/services", any(map[string]any{"service_id": w.id, "code": w.code}), "running"
		switch r.IntN(4) {
		case 0:
			method, path, body, want = "DELETE", "/services/"+w.id+"?force=true", nil, "stopped"
		case 1:
			method, path, body, want = "POST", "/services/"+w.id+"/restart", nil, "running"
		case 2:
			// Its own death is mended, whatever comes next.
			if w.acknowledged == "running" {
				if _, err := call("GET", url+"/services/"+w.id, nil, &s); err == nil && s.PID != nil {
					syscall.Kill(*s.PID, syscall.SIGKILL)
				}
				continue
			}
		}
		w.asked = want
		status, err := call(method, url+path, body, &s)
		if err != nil {
			return answers
		}
		answers++
		switch {
		case status == http.StatusNotFound && w.acknowledged == "gone":
			w.asked = ""
			continue
		case status == http.StatusConflict && w.changing:
			// What runs is what it deployed before the last crash, without an answer.
			w.asked = ""
			continue
		case status == http.StatusCreated:
			w.versions++
			if s.Version != w.versions {
				t.Errorf("%s: version %d was given where %d is next", w.id, s.Version, w.versions)
			}
		case status >= 300 && status != http.StatusUnprocessableEntity && status != http.StatusServiceUnavailable:
			t.Errorf("%s: %s %s is answered with %d", w.id, method, path, status)
		}
		if status < 300 {
			w.acknowledged = want
			if s.PID != nil {
				w.pids[*s.PID] = true
			}
			w.asked = ""
		}
	}
}

// check holds the service against what was acknowledged; a command that had no
// answer may have been done or not.
func (w *writer) check(t *testing.T, url string, round int) {
	var s service
	status, err := call("GET", url+"/services/"+w.id, nil, &s)
	if err != nil {
		t.Errorf("round %d, %s: %v", round, w.id, err)
		return
	}
	is := map[string]string{"starting": "running", "running": "running", "backoff": "running", "stopped": "stopped", "failed": "failed"}[s.State]
	if status == http.StatusNotFound {
		is = "gone"
	}
	if is != w.acknowledged && is != w.asked && is != "failed" {
		t.Errorf("round %d, %s: it is %s; acknowledged was %s, asked for %q", round, w.id, is, w.acknowledged, w.asked)
	}
	if s.Version < w.versions {
		t.Errorf("round %d, %s: version %d, acknowledged was %d", round, w.id, s.Version, w.versions)
	}
	w.acknowledged, w.asked, w.versions = is, "", s.Version
	w.pids = map[int]bool{}
}

// verify proves the chain, and that the log tells of no start without an end.
func verify(t *testing.T, url string, round int) {
	var report struct {
		OK     bool
		BadID  *uint64 `json:"bad_id"`
		LastID uint64  `json:"last_id"`
	}
	if _, err := call("GET", url+"/events/verify", nil, &report); err != nil || !report.OK {
		t.Errorf("round %d: the chain: %+v, %v", round, report, err)
	}
	up := map[string]bool{}
	for since := uint64(0); ; {
		var page struct {
			Events []struct {
				ID      uint64
				Type    string `json:"event_type"`
				Subject string
			}
			Next uint64 `json:"next_since_id"`
			Last uint64 `json:"last_id"`
		}
		if _, err := call("GET", fmt.Sprintf("%s/events?limit=1000&since_id=%d", url, since), nil, &page); err != nil {
			t.Errorf("round %d: %v", round, err)
			return
		}
		for _, e := range page.Events {
			switch e.Type {
			case "service_started":
				// A restart by hand is the end of the one before.
				up[e.Subject] = true
			case "service_crashed", "service_killed":
				up[e.Subject] = false
			}
		}
		if page.Next <= since || page.Next >= page.Last {
			break
		}
		since = page.Next
	}
	var list struct {
		Services []struct {
			ID    string `json:"service_id"`
			State string
		}
	}
	if _, err := call("GET", url+"/services?limit=1000", nil, &list); err != nil {
		t.Errorf("round %d: %v", round, err)
	}
	for _, s := range list.Services {
		if running := s.State == "running"; running && !up["services/"+s.ID] || s.State == "stopped" && up["services/"+s.ID] {
			t.Errorf("round %d: %s is %s, and the log says otherwise", round, s.ID, s.State)
		}
	}
}

// gone waits until a process is; a zombie that pid 1 has not reaped yet is.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(harness.Patience); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Errorf("process %d outlived its daemon: %s", pid, text)
			return
		}
	}
}
