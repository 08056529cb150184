package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
	"github.com/solo-run/solo/pkg/solo"
)

// Host starts programs on this machine. Its methods may be called by many
// goroutines at once.
type Host struct {
	cfg    Config
	exe    string
	runDir string
	root   bool
	// groups is nil where the host has no cgroups to offer.
	groups groups
	layers map[string]solo.Layer
	uids   *uidPool
	state  *stateFile
	forks  chan forkRequest
	cells  *cells
	// null is /dev/null.
	null *os.File
	// guarded closes when the first guard is there, stopped when Run ends.
	guarded chan struct{}
	stopped chan struct{}
	ran     atomic.Bool
	guard   guardHandle
	adopted atomic.Pointer[Handover]
	// frozen: nothing is started that is not asked for, until the handover.
	frozen atomic.Bool

	mu sync.Mutex
	// procs holds what has not been released, by name; a nil value is starting.
	procs map[string]*Proc
}

// killTime bounds how long the end of a group may take once SIGKILL is sent.
const killTime = 10 * time.Second

// Open probes the host and makes the groups and the run directory of this boot.
// Under strict the error names each layer that is missing.
func Open(cfg Config) (_ *Host, err error) {
	if !isHex(cfg.ID, 12) || !isHex(cfg.Boot, 8) {
		return nil, fmt.Errorf("cannot open the sandbox: id %q and boot %q must be 12 and 8 hex digits", cfg.ID, cfg.Boot)
	}
	switch cfg.Isolation {
	case "":
		cfg.Isolation = IsolationAuto
	case IsolationStrict, IsolationAuto, IsolationNone:
	default:
		return nil, fmt.Errorf("cannot open the sandbox: isolation must be strict, auto or none, is %q", cfg.Isolation)
	}
	h := &Host{
		cfg:     cfg,
		exe:     cfg.Exe,
		root:    os.Geteuid() == 0,
		layers:  map[string]solo.Layer{},
		forks:   make(chan forkRequest),
		cells:   newCells(),
		guarded: make(chan struct{}),
		stopped: make(chan struct{}),
		procs:   map[string]*Proc{},
	}
	if h.exe == "" {
		h.exe = "/proc/self/exe"
	}
	if h.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("cannot open the sandbox: %w", err)
	}
	if h.state, err = openState(cfg.StateDir); err != nil {
		h.null.Close()
		return nil, err
	}
	if cfg.Adopt != nil {
		h.adopt(cfg.Adopt)
		if err := h.probe(); err != nil {
			h.null.Close()
			return nil, err
		}
		return h, nil
	}
	if err := h.openRunDir(); err != nil {
		h.null.Close()
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if err := h.mountRunDir(); err != nil {
		return nil, err
	}
	if err := h.probe(); err != nil {
		return nil, err
	}
	return h, nil
}

// Survey says which layers this host has for the caller. It leaves nothing behind.
func Survey() (map[string]solo.Layer, error) {
	root, err := os.MkdirTemp("", "solo-survey-")
	if err != nil {
		return nil, fmt.Errorf("cannot look at the host: %w", err)
	}
	defer os.RemoveAll(root)
	name := make([]byte, 10)
	rand.Read(name)
	h, err := Open(Config{ID: hex.EncodeToString(name[:6]), Boot: hex.EncodeToString(name[6:]), RunRoot: filepath.Join(root, "run")})
	if err != nil {
		return nil, err
	}
	return h.Layers(), h.Close()
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// notBuilt are layers of the plan that this version cannot make on any host.
var notBuilt = []string{"namespaces", "seccomp", "landlock"}

func (h *Host) probe() error {
	for _, name := range notBuilt {
		h.layers[name] = solo.Layer{Why: "this version of solod does not make it yet"}
	}
	if h.cfg.Isolation == IsolationNone {
		for _, name := range append([]string{"uid", "no_new_privs", "rlimits", layerMounts}, cgroupLayers...) {
			h.layers[name] = solo.Layer{Why: `security.isolation is "none"`}
		}
		return h.record(nil)
	}
	h.layers["no_new_privs"] = solo.Layer{On: true}
	h.layers["rlimits"] = solo.Layer{On: true}
	h.layers[layerMounts] = probeMounts()
	if h.root {
		h.uids = newUIDPool(h.cfg.ID)
		h.layers["uid"] = solo.Layer{On: true}
	} else {
		h.layers["uid"] = solo.Layer{Why: "solod does not run as root; services run as its own user"}
	}
	// What is about to be made is on disk first, so that the next boot finds it
	// even if this one ends here.
	g, layers, err := openGroups(h.cfg.ID, h.cfg.Boot, h.record)
	if err != nil {
		return err
	}
	h.groups = g
	for name, layer := range layers {
		h.layers[name] = layer
	}
	if h.cfg.Isolation != IsolationStrict {
		return nil
	}
	var missing []string
	for name, layer := range h.layers {
		if !layer.On && !contains(notBuilt, name) {
			missing = append(missing, name+" ("+layer.Why+")")
		}
	}
	if len(missing) > 0 {
		sort.Strings(missing)
		return fmt.Errorf(`cannot start with security.isolation = "strict": this host lacks %s`, strings.Join(missing, ", "))
	}
	return nil
}

// record makes what is about to be made known to the next boot.
func (h *Host) record(trees []string) error {
	if h.cfg.Adopt != nil {
		return nil // it is the boot that has recorded it
	}
	return h.state.record(bootRecord{Boot: h.cfg.Boot, RunDir: h.runDir, Trees: trees})
}

// layerMounts is a mount namespace for what is bound into a program's view.
const layerMounts = "mounts"

// probeMounts makes a mount namespace on a thread that ends with the try.
func probeMounts() solo.Layer {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- unix.Unshare(unix.CLONE_NEWNS)
	}()
	if err := <-result; err != nil {
		return solo.Layer{Why: "a mount namespace cannot be made: " + err.Error()}
	}
	return solo.Layer{On: true}
}

// BuildUID is the user of commands that build, -1 where they run as the daemon's
// own.
func (h *Host) BuildUID() int {
	if h.uids == nil {
		return -1
	}
	return h.uids.first
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// Layers returns each layer of isolation, on or off with the reason. It does not
// change after Open.
func (h *Host) Layers() map[string]solo.Layer {
	out := make(map[string]solo.Layer, len(h.layers))
	for k, v := range h.layers {
		out[k] = v
	}
	return out
}

// openRunDir makes the directory of this boot: anyone may pass through it,
// nobody but the daemon may list it.
func (h *Host) openRunDir() error {
	parent := h.cfg.RunRoot
	if parent == "" {
		parent = defaultRunRoot(h.root)
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return fmt.Errorf("cannot find the run directory: %w", err)
	}
	// Another daemon that ends may remove an empty parent under our hands.
	for try := 1; ; try++ {
		if err := h.makeRunDir(parent); err == nil {
			return nil
		} else if try == 3 || !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
}

func (h *Host) makeRunDir(parent string) error {
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return fmt.Errorf("cannot make the run directory: %w", err)
	}
	info, err := os.Lstat(parent)
	if err != nil {
		return fmt.Errorf("cannot use the run directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cannot use %s as run directory: it must be a directory of solod's own that nobody else may write to", parent)
	}
	runDir := filepath.Join(parent, h.cfg.ID+"-"+h.cfg.Boot)
	if err := os.Mkdir(runDir, 0o711); err != nil {
		return fmt.Errorf("cannot make the run directory: %w", err)
	}
	h.cfg.RunRoot, h.runDir = parent, runDir
	return nil
}

// mountRunDir puts the run directory into memory where it is not there already: a
// start makes half a dozen directories, a build some dozens, and on a disk each
// costs as much as the rest of a fork. What a program writes there is then memory
// of its own group. Without the right to mount, the disk serves as well.
func (h *Host) mountRunDir() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(h.runDir, &fs); err != nil {
		return fmt.Errorf("cannot use the run directory: %w", err)
	}
	if !h.root || fs.Type == unix.TMPFS_MAGIC {
		return nil
	}
	err := unix.Mount("solo", h.runDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711")
	if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("cannot mount the run directory: %w", err)
	}
	return nil
}

func defaultRunRoot(root bool) string {
	if root {
		return "/run/solo"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "solo")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("solo-%d", os.Geteuid()))
}

// MakeDir makes the run directory of one command and returns its path. Anyone
// may pass through it. [Host.RemoveDir] removes it; the end of the daemon does too.
func (h *Host) MakeDir(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	dir := filepath.Join(h.runDir, name)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", fmt.Errorf("cannot make the run directory of %s: %w", name, err)
	}
	return dir, nil
}

// RemoveDir removes a directory of [Host.MakeDir] with all that is in it. Call it
// once the program is done and before its user is given to another: before
// [Proc.Release].
func (h *Host) RemoveDir(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(h.runDir, name)); err != nil {
		return fmt.Errorf("cannot remove the run directory of %s: %w", name, err)
	}
	return nil
}

func checkName(name string) error {
	if len(name) == 0 || len(name) > 40 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("cannot use %q as a name: it must be 1 to 40 bytes of a-z, 0-9 and -", name)
	}
	return nil
}

// Close removes the groups and the run directory of this boot, and what is left
// in them. Call it after Run has returned.
func (h *Host) Close() error {
	errs := []error{h.null.Close()}
	if h.groups != nil {
		errs = append(errs, h.groups.close(time.Now().Add(killTime)))
	}
	if h.runDir != "" {
		errs = append(errs, early.RemoveRunDir(h.runDir))
		// The parent is every daemon's of this user: only the last takes it along.
		os.Remove(h.cfg.RunRoot)
	}
	if err := errors.Join(errs...); err != nil {
		// The record stays: the next boot tries again.
		return fmt.Errorf("cannot clean up the sandbox: %w", err)
	}
	return h.state.forget(func(r bootRecord) bool { return r.Boot == h.cfg.Boot })
}

// Run forks for Start and keeps the guard alive until ctx ends. Then it ends
// every program that still runs and waits for them. Start works only meanwhile:
// before, it waits, and after, it fails. A Host runs once.
func (h *Host) Run(ctx context.Context) error {
	if !h.ran.CompareAndSwap(false, true) {
		return errors.New("cannot run a sandbox twice")
	}
	spawner := make(chan struct{})
	quit := make(chan struct{})
	go func() {
		defer close(spawner)
		onForkThread(func() { spawnLoop(h.forks, quit) })
	}()
	guardErr := make(chan error, 1)
	stocked := make(chan struct{})
	go func() {
		defer close(stocked)
		h.stockCells(ctx)
	}()
	guardCtx, stopGuard := context.WithCancel(context.Background())
	go func() { guardErr <- h.runGuard(guardCtx) }()

	var err error
	select {
	case <-ctx.Done():
	case err = <-guardErr:
		guardErr <- nil
	}
	close(h.stopped)
	<-stocked
	h.endAll()
	stopGuard()
	if gerr := <-guardErr; err == nil {
		err = gerr
	}
	close(quit)
	<-spawner
	return err
}

// endAll kills what runs and waits for it, so that nothing outlives Run.
func (h *Host) endAll() {
	h.mu.Lock()
	var left []*Proc
	for _, p := range h.procs {
		if p != nil {
			left = append(left, p)
		}
	}
	h.mu.Unlock()
	if h.groups != nil {
		early.KillTrees(h.groups.trees(), time.Now().Add(killTime))
	}
	for _, p := range left {
		p.Kill()
	}
}

// uidPool leases uids of a range that belongs to this data directory.
type uidPool struct {
	mu     sync.Mutex
	first  int
	next   int
	leased map[int]bool
}

// The ranges lie above those that distributions and systemd give out (systemd's
// uids for containers end at 1879048191) and below 2^31.
const (
	uidFloor     = 2_000_000_000
	uidRanges    = 16384
	uidsPerRange = 8192
)

func newUIDPool(id string) *uidPool {
	sum := fnv.New32a()
	sum.Write([]byte(id))
	return &uidPool{
		first:  uidFloor + int(sum.Sum32()%uidRanges)*uidsPerRange,
		next:   1,
		leased: map[int]bool{},
	}
}

// lease returns the uid that has been free for longest, as far as one round of
// the range tells.
func (p *uidPool) lease() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range uidsPerRange {
		uid := p.first + p.next
		// The first of the range is the builds'.
		p.next = max(1, (p.next+1)%uidsPerRange)
		if !p.leased[uid] {
			p.leased[uid] = true
			return uid, nil
		}
	}
	return 0, fmt.Errorf("cannot lease a uid: all %d are in use", uidsPerRange-1)
}

func (p *uidPool) release(uid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.leased, uid)
}

// stray reports whether a uid is of this range and leased to nobody.
func (p *uidPool) stray(uid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return uid > p.first && uid < p.first+uidsPerRange && !p.leased[uid]
}
