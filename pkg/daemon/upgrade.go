package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/engine"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// HandoverFlag has a solod say what it can take over, and end.
const HandoverFlag = "handover"

// handoverVersion is that of the handover's own form. A solod takes over only from
// one of the same.
const handoverVersion = 1

// handoverEnv names the descriptor of a [handover] to the program that takes over.
const handoverEnv = "SOLO_HANDOVER"

// Offer is what a binary says of itself before it is trusted with a handover.
type Offer struct {
	Handover int    `json:"handover"`
	Schema   uint64 `json:"schema"`
	Version  string `json:"version"`
}

// WriteOffer is the answer to [HandoverFlag].
func WriteOffer(w io.Writer) error {
	return json.NewEncoder(w).Encode(Offer{handoverVersion, store.Schema, Version})
}

// handover is all that goes from one daemon to the next under the same pid. Every
// number of a descriptor in it is open in the new program.
type handover struct {
	Handover int
	From     string
	Sandbox  *sandbox.Handover
	Engine   *engine.Handover
	// REST and GRPC are listeners, Lock is that of the data directory.
	REST, GRPC []int
	Lock       int
	// Exe is the old binary, for a new one that does not come up. Returned tells that
	// this is such a way back: there is none from there.
	Exe      int
	Returned bool
}

// fds are all descriptors of the handover.
func (h *handover) fds() []int {
	out := append(append([]int{h.Lock, h.Exe, h.Sandbox.GuardFD}, h.REST...), h.GRPC...)
	for _, s := range h.Engine.Services {
		out = append(out, s.Process.Stdout, s.Process.Stderr, s.Process.Host)
	}
	return out
}

const (
	// offerTime is how long a new binary may take to say what it is.
	offerTime = 10 * time.Second
	// holdTime bounds how long calls in flight are waited for, with what their
	// servers need beside the callTime of the calls.
	holdTime = 15 * time.Second
	callTime = 5 * time.Second
)

// upgrade checks the binary, and has it take over once the caller has its answer.
func (d *daemon) upgrade(ctx context.Context, binary string) (*solo.UpgradeResult, error) {
	path, err := ownPath(binary)
	if err != nil {
		return nil, err
	}
	offer, err := askOffer(ctx, path)
	if err != nil {
		return nil, solo.Errorf(solo.CodeConflict, "the new binary will not do: %s", err)
	}
	if !d.upgrading.CompareAndSwap(false, true) {
		return nil, solo.Errorf(solo.CodeConflict, "an upgrade is under way")
	}
	d.log.Info("an upgrade begins", "binary", path, "from", Version, "to", offer.Version)
	since := d.events.LastID()
	go func() {
		defer d.upgrading.Store(false)
		err := d.handOver(path)
		d.log.Error("the upgrade did not come about; this daemon goes on", "binary", path, "error", err)
	}()
	return &solo.UpgradeResult{Status: "upgrading", From: Version, To: offer.Version, SinceID: since}, nil
}

// ownPath is the binary that is asked for, or the one that is now where the running
// one was.
func ownPath(binary string) (string, error) {
	if binary == "" {
		own, err := os.Executable()
		if err != nil {
			return "", solo.Internal(err)
		}
		return strings.TrimSuffix(own, " (deleted)"), nil
	}
	if !filepath.IsAbs(binary) || len(binary) > 4096 || strings.ContainsRune(binary, 0) {
		return "", solo.InvalidFields(solo.Field{Field: "binary", Message: "must be an absolute path"})
	}
	return filepath.Clean(binary), nil
}

func askOffer(ctx context.Context, path string) (*Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, offerTime)
	defer cancel()
	// With the arguments of this daemon: they and the configuration have to do too.
	cmd := exec.CommandContext(ctx, path, append(os.Args[1:len(os.Args):len(os.Args)], "--"+HandoverFlag)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return nil, fmt.Errorf("%.500s", strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("it does not answer to --%s: %w", HandoverFlag, err)
	}
	var o Offer
	if err := json.Unmarshal(out, &o); err != nil {
		return nil, fmt.Errorf("it is not solod: what it says to --%s is not understood", HandoverFlag)
	}
	switch {
	case o.Handover != handoverVersion:
		return nil, fmt.Errorf("it takes over in form %d, this daemon hands over in form %d: stop and start it instead", o.Handover, handoverVersion)
	case o.Schema < store.Schema:
		return nil, fmt.Errorf("it is older than the store: it knows schema %d, the store has %d", o.Schema, store.Schema)
	}
	return &o, nil
}

// handOver returns only if it failed; everything goes on then as it was.
func (d *daemon) handOver(path string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), holdTime)
	defer cancel()
	d.doors.patient.Store(true)
	defer d.doors.patient.Store(false)
	release, err := d.doors.hold(ctx)
	if err != nil {
		return fmt.Errorf("calls in flight do not end: %w", err)
	}
	defer release()
	if err := d.used.Flush(); err != nil {
		return err
	}
	failpoint.Hit("upgrade.held")
	d.host.Freeze()
	defer d.host.Thaw()
	services, thaw, err := d.engine.Freeze(ctx)
	if err != nil {
		return err
	}
	defer thaw()
	failpoint.Hit("upgrade.frozen")
	h := &handover{Handover: handoverVersion, From: Version, Engine: services}
	if h.Sandbox, err = d.host.Handover(); err != nil {
		return err
	}
	defer func() {
		for _, fd := range h.fds() {
			if fd > 2 {
				unix.Close(fd)
			}
		}
	}()
	if err := d.keepFiles(h); err != nil {
		return err
	}
	memory, err := unix.MemfdCreate("solo-handover", 0)
	if err != nil {
		return err
	}
	defer unix.Close(memory)
	if err := h.store(memory); err != nil {
		return err
	}
	args := append([]string{path}, os.Args[1:]...)
	d.log.Info("the new binary takes over", "services", len(services.Services))
	return fmt.Errorf("it cannot be executed: %w", d.host.Exec(path, args, append(os.Environ(), handoverEnv+"="+strconv.Itoa(memory))))
}

// keepFiles duplicates the daemon's own descriptors.
func (d *daemon) keepFiles(h *handover) (err error) {
	keep := func(open func() (*os.File, error)) int {
		if err != nil {
			return -1
		}
		var f *os.File
		if f, err = open(); err != nil {
			return -1
		}
		defer f.Close()
		var fd int
		fd, err = sandbox.KeepOpen(f)
		return fd
	}
	for n, list := range d.doors.open {
		to := []*[]int{&h.REST, &h.GRPC}[n]
		for _, door := range list {
			*to = append(*to, keep(door.File))
		}
	}
	h.Exe = keep(func() (*os.File, error) { return os.Open("/proc/self/exe") })
	if err != nil {
		return err
	}
	h.Lock, err = sandbox.KeepOpen(d.lock.file)
	return err
}

// store writes the handover into memory that the exec keeps.
func (h *handover) store(fd int) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		return err
	}
	for at := 0; at < len(text); {
		n, err := unix.Pwrite(fd, text[at:], int64(at))
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// maxHandover bounds what is read of a handover, in bytes.
const maxHandover = 1 << 30

// takeHandover reads what a former daemon has left to this process; nil for a boot
// of its own.
func takeHandover() (*handover, int, error) {
	text, ok := os.LookupEnv(handoverEnv)
	if !ok {
		return nil, -1, nil
	}
	os.Unsetenv(handoverEnv)
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, -1, fmt.Errorf("%s is %q: it is solod's own, and set by nobody else", handoverEnv, text)
	}
	var h handover
	in := io.NewSectionReader(memory(fd), 0, maxHandover)
	if err := json.NewDecoder(in).Decode(&h); err != nil {
		return nil, -1, fmt.Errorf("cannot read what the former daemon has handed over: %w", err)
	}
	if h.Handover != handoverVersion || h.Sandbox == nil || h.Engine == nil {
		return nil, fd, errors.New("the former daemon has handed over in another form")
	}
	return &h, fd, nil
}

type memory int

func (m memory) ReadAt(p []byte, at int64) (int, error) {
	n, err := unix.Pread(int(m), p, at)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// handBack puts the old binary into the place of one that does not come up. It
// returns only if that failed too.
func (h *handover) handBack(fd int) error {
	if h.Returned {
		return errors.New("the old binary does not come up either")
	}
	h.Returned = true
	if err := h.store(fd); err != nil {
		return err
	}
	for _, f := range append(h.fds(), fd) {
		if _, err := unix.FcntlInt(uintptr(f), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	args := append([]string{os.Args[0]}, os.Args[1:]...)
	return sandbox.ExecMain(fmt.Sprintf("/proc/self/fd/%d", h.Exe), args, append(os.Environ(), handoverEnv+"="+strconv.Itoa(fd)))
}

// settled closes what only a way back would have needed.
func (h *handover) settled(fd int) {
	for _, f := range append(append([]int{fd, h.Exe}, h.REST...), h.GRPC...) {
		unix.Close(f)
	}
}

// adopt takes the listeners over.
func (d *doors) adopt(h *handover) error {
	for n, fds := range [][]int{h.REST, h.GRPC} {
		for _, fd := range fds {
			door, err := gateway.AdoptDoor(fd)
			if err != nil {
				d.close()
				return err
			}
			d.open[n] = append(d.open[n], door)
		}
	}
	d.named()
	return nil
}

// services is what the engine takes over, nil where there is no handover.
func (h *handover) services() *engine.Handover {
	if h == nil {
		return nil
	}
	return h.Engine
}

// takeLock takes the data directory, or the lock on it that was handed over.
func (d *daemon) takeLock(dir string) (*lock, error) {
	if d.former == nil {
		return takeLock(dir)
	}
	unix.CloseOnExec(d.former.Lock)
	return &lock{os.NewFile(uintptr(d.former.Lock), lockFile)}, nil
}

// untilReady waits until every service has had its outcome, or for as long as a
// caller's connection is sure to wait.
func (d *daemon) untilReady(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(callTime); !d.engine.Ready() && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
