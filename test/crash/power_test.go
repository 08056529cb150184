package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/test/harness"
)

// machine is a solod whose data directory is on a disk that forgets.
type machine struct {
	t    *testing.T
	d    *harness.Daemon
	disk *disk
	path string
}

func newMachine(t *testing.T, env ...string) *machine {
	t.Helper()
	needFUSE(t)
	bin, cache := mortal(t)
	dir, err := os.MkdirTemp("", "solo-power-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, disk: newDisk(), path: filepath.Join(dir, "disk")}
	m.d = &harness.Daemon{
		Bin: bin, Dir: filepath.Join(m.path, "data"), Log: filepath.Join(dir, "log"),
		Env: append(append(os.Environ(), "SOLO_BUILD__CACHE_DIR="+cache, "SOLO_SOLO__SOCKET="+filepath.Join(dir, "solo.sock")), env...),
	}
	t.Cleanup(m.end)
	if err := m.disk.mount(m.path); err != nil {
		t.Fatal(err)
	}
	return m
}

// end leaves nothing of the machine. Two must not run at once: the user of their
// builds is not the same, and the cache is.
func (m *machine) end() {
	m.d.Stop(syscall.SIGKILL)
	if err := m.disk.unmount(); err != nil {
		m.t.Error(err)
	}
	if text, err := os.ReadFile(m.d.Log); err == nil && m.t.Failed() {
		m.t.Logf("%s", text[max(0, len(text)-8000):])
	}
	os.RemoveAll(filepath.Dir(m.path))
}

func (m *machine) start() {
	m.t.Helper()
	if err := m.d.Start(); err != nil {
		m.t.Fatal(err)
	}
}

// cut takes the power away, and puts what is left of the disk in its place.
func (m *machine) cut() {
	m.t.Helper()
	after := m.disk.powerOff()
	syscall.Kill(m.d.PID(), syscall.SIGKILL)
	m.disk.release()
	if err := m.d.Stop(syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	if err := m.disk.unmount(); err != nil {
		m.t.Fatal(err)
	}
	m.disk = after
	if err := m.disk.mount(m.path); err != nil {
		m.t.Fatal(err)
	}
}

// said tells whether solod has logged a text.
func (m *machine) said(text string) bool {
	all, err := os.ReadFile(m.d.Log)
	if err != nil {
		m.t.Fatal(err)
	}
	return bytes.Contains(all, []byte(text))
}

// cutTime is when the power is cut at the latest, whatever solod has written.
const cutTime = 3 * time.Second

// Whatever was acknowledged is there after a power cut at any moment, of the records
// and of the files that they name; half of the cuts leave some of what was not
// synced, at random.
func TestPowerCutsUnderLoad(t *testing.T) {
	seed := seeded(t)
	m := newMachine(t)
	m.start()
	all := make([]*writer, writers)
	for i := range all {
		all[i] = newWriter(fmt.Sprint("w", i), i%2 == 0)
	}
	random := rand.New(rand.NewPCG(seed, 3))
	answers := 0
	for round := range rounds() {
		m.disk.mu.Lock()
		m.disk.cutAt = m.disk.changes + 1 + random.IntN(1500)
		if round%2 == 1 {
			m.disk.keep = byLuck(seed + uint64(round))
		}
		m.disk.mu.Unlock()
		var group sync.WaitGroup
		var mu sync.Mutex
		for i, w := range all {
			r := rand.New(rand.NewPCG(seed, uint64(round*writers+i)+100))
			group.Go(func() {
				n := w.work(t, m.d.URL, r)
				mu.Lock()
				answers += n
				mu.Unlock()
			})
		}
		select {
		case <-m.disk.cut:
		case <-time.After(cutTime):
		}
		changes := m.disk.changed()
		m.cut()
		group.Wait()
		m.start()
		t.Logf("round %d: cut after %d changes of the disk, %d answers so far", round, changes, answers)
		for _, w := range all {
			w.check(t, m.d.URL, round)
		}
		verify(t, m.d.URL, round)
		for _, w := range all {
			m.files(w, round)
		}
		if m.said("is gone or damaged") {
			t.Errorf("round %d: an artifact of a service that runs was lost", round)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d power cuts, %d answers", rounds(), answers)
}

// A first start that the power is cut under, anywhere, leaves nothing that the next
// one stumbles over.
func TestPowerCutsAtTheFirstStart(t *testing.T) {
	random := rand.New(rand.NewPCG(seeded(t), 4))
	whole := newMachine(t)
	whole.start()
	changes := whole.disk.changed()
	whole.end()
	for range rounds() {
		m := newMachine(t)
		// The first is the directory, which the test itself makes.
		m.disk.cutAt, m.disk.keep = 2+random.IntN(changes-1), byLuck(random.Uint64())
		if err := m.d.Launch(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-m.disk.cut:
		case <-time.After(cutTime):
			t.Logf("it made less than %d changes this time", m.disk.cutAt)
		}
		at := m.disk.cutAt
		m.cut()
		if err := m.d.Start(); err != nil {
			t.Fatalf("after a power cut before change %d of %d: %v", at, changes, err)
		}
		if !m.deployed("a") {
			t.Error("a deploy that was acknowledged is lost")
		}
		m.end()
	}
}

// files proves that what the records name is there: the source of each version, and
// the program of one that runs.
func (m *machine) files(w *writer, round int) {
	key := solo.Key{Tenant: "crash", Service: w.id}
	kept := m.disk.list(filepath.Join("data", "sources", key.Digest()))
	for name, text := range kept {
		if !json.Valid(text) {
			m.t.Errorf("round %d, %s: the source %s holds %.40q", round, w.id, name, text)
		}
	}
	if w.changing && len(kept) < w.versions || len(kept) == 0 && w.versions > 0 {
		m.t.Errorf("round %d, %s: %d sources of %d versions", round, w.id, len(kept), w.versions)
	}
	if w.acknowledged != "running" {
		return
	}
	if status, err := call("POST", m.d.URL+"/services/"+w.id+"/invoke/x", nil, nil); err != nil || status != http.StatusOK {
		m.t.Errorf("round %d, %s: a call is answered with %d, %v", round, w.id, status, err)
	}
}

// deployed deploys a service, which is acknowledged, and reports whether it is
// there after a power cut.
func (m *machine) deployed(id string) bool {
	m.t.Helper()
	status, err := call("POST", m.d.URL+"/services", map[string]any{"service_id": id, "code": source}, nil)
	if err != nil || status != http.StatusCreated {
		m.t.Fatalf("a deploy is answered with %d, %v", status, err)
	}
	m.cut()
	m.start()
	status, err = call("GET", m.d.URL+"/services/"+id, nil, nil)
	if err != nil || status != http.StatusOK && status != http.StatusNotFound {
		m.t.Fatalf("a status is answered with %d, %v", status, err)
	}
	return status == http.StatusOK
}

// The control of the tests of power cuts: they see a store that leaves out its
// fsyncs lose what it has acknowledged.
func TestPowerCutWithoutSyncLoses(t *testing.T) {
	m := newMachine(t)
	m.start()
	if !m.deployed("a") {
		t.Fatal("a deploy that was acknowledged is lost")
	}
	if err := m.d.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.d.Env = append(m.d.Env, "SOLO_FAILPOINT_NOSYNC=1")
	m.start()
	if m.deployed("b") {
		t.Fatal("without an fsync nothing is lost: these tests would not see it")
	}
	if status, err := call("GET", m.d.URL+"/services/a", nil, nil); err != nil || status != http.StatusOK {
		t.Errorf("what was synced before is %d, %v", status, err)
	}
}

// storeEvents is how many events a writer stores; in the middle it compacts.
const storeEvents = 24

// writeStore opens a store and writes events to it, and says which are stored.
func writeStore(path string) int {
	db, err := store.Open(path, store.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	log, err := eventlog.Open(db)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := 1; n <= storeEvents; n++ {
		err := db.Update(func(tx *store.Tx) error {
			_, err := log.Append(tx, solo.Event{TenantID: "t", Type: "app.n", Subject: "services/s", Payload: map[string]any{"n": n}})
			return err
		})
		if err == nil && n == storeEvents/2 {
			err = db.Compact()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(n)
	}
	return 0
}

// storeCut lets a writer work on a fresh disk until the power is cut before a change,
// and returns what it has acknowledged and what is found afterwards.
func storeCut(t *testing.T, disk *disk) (acknowledged, found int) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := disk.mount(path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), storeAt+"="+filepath.Join(path, "events"))
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			acknowledged, _ = strconv.Atoi(lines.Text())
		}
	}()
	select {
	case <-disk.cut:
	case <-ended:
	}
	after := disk.powerOff()
	cmd.Process.Kill()
	disk.release()
	<-ended
	cmd.Wait()
	if err := disk.unmount(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "left")
	if err := after.dump(left); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(left, "events"), store.Options{})
	if err != nil {
		t.Fatalf("before change %d: %v", disk.cutAt, err)
	}
	defer db.Close()
	log, err := eventlog.Open(db)
	if err != nil {
		t.Fatalf("before change %d: %v", disk.cutAt, err)
	}
	report, err := log.Verify(context.Background())
	if err != nil || !report.OK {
		t.Fatalf("before change %d: %+v, %v", disk.cutAt, report, err)
	}
	return acknowledged, int(log.LastID())
}

// A store keeps what it has acknowledged, whatever change of the disk the power is
// cut before, its making and its compaction included.
func TestPowerCutBeforeEveryChange(t *testing.T) {
	needFUSE(t)
	seed := seeded(t)
	whole := newDisk()
	if acknowledged, found := storeCut(t, whole); acknowledged != storeEvents || found != storeEvents {
		t.Fatalf("%d events of %d that were acknowledged", found, acknowledged)
	}
	changes := whole.changed()
	// The usual run looks at one in so many, beginning anywhere.
	step := max(1, changes/(12*rounds()))
	for at := 1 + int(seed%uint64(step)); at <= changes; at += step {
		for _, keep := range []keeping{nothing, byLuck(seed + uint64(at))} {
			disk := newDisk()
			disk.cutAt, disk.keep = at, keep
			acknowledged, found := storeCut(t, disk)
			// One more may have been stored without an answer.
			if found != acknowledged && found != acknowledged+1 {
				t.Fatalf("before change %d: %d events of %d that were acknowledged", at, found, acknowledged)
			}
		}
	}
	t.Logf("of %d changes, each %d.", changes, step)
}

// The control: a disk that forgets everything is seen.
func TestPowerCutOfADeafDisk(t *testing.T) {
	needFUSE(t)
	disk := newDisk()
	disk.deaf = true
	if acknowledged, found := storeCut(t, disk); acknowledged != storeEvents || found != 0 {
		t.Errorf("a disk that forgets everything has %d of %d events", found, acknowledged)
	}
}

// seeded is the seed of a test, which is printed.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SOLO_CRASH_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("SOLO_CRASH_SEED=%d", seed)
	return seed
}
