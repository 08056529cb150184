package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/test/harness"
)

// scene is a daemon that is about to die at a place, and what is known of it.
type scene struct {
	t *testing.T
	d *harness.Daemon
	// states is what each service was acknowledged to be; asked what the command that
	// has no answer would make of one.
	states map[string]string
	asked  map[string]string
	// secret is the value that was acknowledged as stored.
	secret string
}

// errDead is a command without an answer.
var errDead = errors.New("the daemon is gone")

// do gives a command and notes its answer.
func (s *scene) do(method, path, id, want string, body any, header ...string) error {
	s.asked[id] = want
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.d.URL+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Tenant-ID", "crash")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return errDead
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return errDead
	}
	if resp.StatusCode >= 300 {
		s.t.Fatalf("%s %s is answered with %d: %s", method, path, resp.StatusCode, answer)
	}
	s.states[id] = want
	delete(s.asked, id)
	return nil
}

// keep stores a secret and notes that it was.
func (s *scene) keep(value string) error {
	status, err := call("POST", s.d.URL+"/secrets", map[string]any{"key": "kept", "value": value}, nil)
	if err != nil {
		return errDead
	}
	if status != http.StatusCreated {
		s.t.Fatalf("a secret is answered with %d", status)
	}
	s.secret = value
	return nil
}

func (s *scene) deploy(id, code string) error {
	return s.do("POST", "/services", id, "running", map[string]any{"service_id": id, "code": code}, "Idempotency-Key", "key-"+id)
}

// operatorTime is how long an operator waits for a daemon that may be gone.
const operatorTime = 3 * time.Second

// operator calls what only the operator may, over the unix socket.
func (s *scene) operator(args ...string) {
	ctx, cancel := context.WithTimeout(s.t.Context(), operatorTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.d.Bin, "solo"), append([]string{"--addr", "unix:" + filepath.Join(s.d.Dir, "solo.sock")}, args...)...)
	cmd.Dir = filepath.Dir(s.d.Dir)
	// It may be cut off: what counts is what the daemon is afterwards.
	cmd.Run()
}

// crash ends a service's own process and waits until that is mended.
func (s *scene) crash(id string) error {
	var now service
	status, err := call("GET", s.d.URL+"/services/"+id, nil, &now)
	if err != nil || status != 200 || now.PID == nil {
		return errDead
	}
	was := *now.PID
	syscall.Kill(was, syscall.SIGKILL)
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if _, err := call("GET", s.d.URL+"/services/"+id, nil, &now); err != nil {
			return errDead
		}
		if now.State == "running" && now.PID != nil && *now.PID != was {
			return nil
		}
	}
	s.t.Fatalf("%s is not mended", id)
	return nil
}

// play does one of everything that writes, until the daemon is gone.
func (s *scene) play() {
	steps := []func() error{
		func() error { return s.deploy("a", source) },
		func() error { return s.deploy("b", source+"\n// b\n") },
		func() error { return s.crash("b") },
		func() error { return s.do("POST", "/services/a/restart", "a", "running", nil) },
		func() error { return s.do("DELETE", "/services/a?force=true", "a", "stopped", nil) },
		func() error {
			return s.do("DELETE", "/services/b?force=true&purge=true", "b", "gone", nil, "Idempotency-Key", "gone-b")
		},
		func() error { return s.keep("a secret of before") },
		func() error { s.operator("vault", "rotate"); return nil },
		func() error { s.operator("backup", "copy.tar"); return nil },
		func() error { s.operator("upgrade"); return nil },
	}
	for _, step := range steps {
		if step() != nil {
			return
		}
	}
}

// killed reports whether the daemon has died as it was told to.
func (s *scene) killed() bool {
	for end := time.Now().Add(harness.Patience / 3); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.d.PID()))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return true
		}
	}
	return false
}

// check holds the next daemon against what the former had acknowledged.
func (s *scene) check() {
	s.t.Helper()
	for _, id := range []string{"a", "b"} {
		var now service
		status, err := call("GET", s.d.URL+"/services/"+id, nil, &now)
		if err != nil {
			s.t.Fatal(err)
		}
		is := map[string]string{"starting": "running", "running": "running", "backoff": "running", "stopped": "stopped"}[now.State]
		if status == http.StatusNotFound {
			is = "gone"
		}
		was := s.states[id]
		if was == "" {
			was = "gone"
		}
		// A purge that was cut off may have come as far as the stop.
		half := s.asked[id] == "gone" && is == "stopped"
		if is != was && is != s.asked[id] && !half {
			s.t.Errorf("%s is %s; acknowledged was %s, asked for %q", id, is, was, s.asked[id])
		}
		if is == "running" {
			if status, err := call("POST", s.d.URL+"/services/"+id+"/invoke/x", nil, nil); err != nil || status != 200 {
				s.t.Errorf("%s is said to run, and answers with %d, %v", id, status, err)
			}
		}
	}
	verify(s.t, s.d.URL, 0)
	if s.secret != "" {
		var kept struct{ Value string }
		if status, err := call("POST", s.d.URL+"/secrets/kept/reveal", map[string]any{}, &kept); err != nil || status != 200 || kept.Value != s.secret {
			s.t.Errorf("the secret is answered with %d, %v", status, err)
		}
	}
	// Nothing is left of what was not finished.
	for _, pattern := range []string{".backup-*", "events.compact", "sources/*/.new-*", "vault.key.new", "vault.key.next", "*.initialised.new"} {
		if left, _ := filepath.Glob(filepath.Join(s.d.Dir, pattern)); len(left) > 0 {
			s.t.Errorf("left are %v", left)
		}
	}
	kept := 0
	for _, id := range []string{"a", "b"} {
		if status, _ := call("GET", s.d.URL+"/services/"+id, nil, nil); status == 200 {
			kept++
		}
	}
	for _, tree := range []string{"sources", "logs"} {
		entries, err := os.ReadDir(filepath.Join(s.d.Dir, tree))
		if err != nil || len(entries) != kept {
			s.t.Errorf("%s has %d directories for %d services, %v", tree, len(entries), kept, err)
		}
	}
}

// At each named place of every operation that writes: the daemon dies, and the next
// one has all that was acknowledged, what was not is whole or absent, the log holds,
// and everything goes on.
func TestKillsAtEveryStep(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-failpoint-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin, cache := mortal(t)
	for _, name := range failpoint.Names {
		counts := []int{1}
		switch name {
		case "store.commit":
			counts = []int{2, 3, 4, 5, 6, 7, 8, 9, 10}
		case "start.recorded":
			counts = []int{1, 2}
		}
		for _, count := range counts {
			t.Run(fmt.Sprintf("%s-%d", name, count), func(t *testing.T) {
				env := append(os.Environ(), "SOLO_BUILD__CACHE_DIR="+cache)
				data := filepath.Join(dir, fmt.Sprintf("%s-%d", name, count), "data")
				if strings.HasPrefix(name, "retain.") || strings.HasPrefix(name, "compact.") {
					env = append(env, "SOLO_EVENTS__MAX_MB=1")
					if err := os.MkdirAll(data, 0o700); err != nil {
						t.Fatal(err)
					}
					oldLog(t, filepath.Join(data, "events"))
				}
				s := &scene{t: t, states: map[string]string{}, asked: map[string]string{}}
				s.d = &harness.Daemon{Bin: bin, Dir: data, Env: append(slices.Clone(env), fmt.Sprintf("SOLO_FAILPOINT=%s:%d", name, count))}
				if err := s.d.Start(); err == nil {
					s.play()
				} // else it came to the place at its start
				if !s.killed() {
					t.Fatal("the daemon has not come to this place")
				}
				if err := s.d.Stop(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				s.d.Env = env
				if err := s.d.Start(); err != nil {
					t.Fatal(err)
				}
				defer s.d.Stop(syscall.SIGKILL)
				s.check()
				// All of it works again, and in full.
				clear(s.asked)
				again := &scene{t: t, d: s.d, states: map[string]string{}, asked: map[string]string{}}
				for _, id := range []string{"a", "b"} {
					if status, _ := call("GET", s.d.URL+"/services/"+id, nil, nil); status == 200 {
						if err := again.do("DELETE", "/services/"+id+"?force=true&purge=true", id, "gone", nil); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := again.do("POST", "/services", "a", "running", map[string]any{"service_id": "a", "code": source + "\n// again\n"}); err != nil {
					t.Fatal(err)
				}
				if err := s.d.Stop(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// oldLog makes a log that is far over a retention of 1 MB.
func oldLog(t *testing.T, path string) {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	payload := map[string]any{"text": strings.Repeat("x", 4000)}
	for range 20 {
		err := db.Update(func(tx *store.Tx) error {
			for range 1000 {
				if _, err := log.Append(tx, solo.Event{TenantID: "t", Type: "app.old", Subject: "services/old", Payload: payload}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
