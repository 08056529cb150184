package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
)

// bootRecord is what one boot made on this machine.
type bootRecord struct {
	Boot   string   `json:"boot"`
	RunDir string   `json:"run_dir"`
	Trees  []string `json:"trees"`
}

// maxState bounds the state file, maxRecords what it holds: older boots that
// could not be swept for so long are left to the operator.
const (
	maxState   = 1 << 20
	maxRecords = 64
)

// stateFile remembers the boots whose groups may still be there.
type stateFile struct {
	path string

	mu      sync.Mutex
	records []bootRecord
}

func openState(dir string) (*stateFile, error) {
	s := &stateFile{}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the sandbox's state directory: %w", err)
	}
	s.path = filepath.Join(dir, "boots.json")
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the sandbox's state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, fmt.Errorf("cannot read the sandbox's state: %w", err)
	}
	if json.Unmarshal(data, &s.records) != nil {
		// It is a hint and no more: without it the usual places are swept.
		s.records = nil
	}
	return s, nil
}

// record adds a boot, durably.
func (s *stateFile) record(r bootRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, r)
	if over := len(s.records) - maxRecords; over > 0 {
		s.records = s.records[over:]
	}
	return s.save()
}

// forget drops the boots that match picks.
func (s *stateFile) forget(match func(bootRecord) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep []bootRecord
	for _, r := range s.records {
		if !match(r) {
			keep = append(keep, r)
		}
	}
	if len(keep) == len(s.records) {
		return nil
	}
	s.records = keep
	return s.save()
}

func (s *stateFile) save() error {
	if s.path == "" {
		return nil
	}
	data, err := json.Marshal(s.records)
	if err != nil {
		return err
	}
	if err := writeDurable(s.path, data); err != nil {
		return fmt.Errorf("cannot write the sandbox's state: %w", err)
	}
	return nil
}

// writeDurable replaces a file so that after a crash it is the old or the new one.
func writeDurable(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".boots-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Sweep ends what earlier boots of the same id have left: processes, groups and
// run directories; never those of this boot. It returns how many processes it
// met at least. The daemon holds the lock of its data directory, so every other
// boot of the id is over.
func (h *Host) Sweep(ctx context.Context) (killed int, err error) {
	deadline := time.Now().Add(killTime)
	if until, ok := ctx.Deadline(); ok && until.Before(deadline) {
		deadline = until
	}
	var errs []error
	trees := h.oldTrees()
	killed, err = early.KillTrees(trees, deadline)
	errs = append(errs, err)
	for _, tree := range trees {
		errs = append(errs, early.RemoveTree(tree, deadline))
		// It holds this boot's groups too, where it is the usual place.
		os.Remove(filepath.Dir(tree))
	}
	if h.uids != nil && h.groups == nil {
		// Without groups, what an earlier boot left is known by its users.
		n, err := early.KillMatching(func(p early.Proc) bool { return h.uids.stray(p.UID) }, deadline)
		killed += n
		errs = append(errs, err)
	}
	for _, dir := range h.oldRunDirs() {
		errs = append(errs, early.RemoveRunDir(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return killed, fmt.Errorf("cannot sweep what an earlier solod left: %w", err)
	}
	return killed, h.state.forget(func(r bootRecord) bool { return r.Boot != h.cfg.Boot })
}

// oldTrees are the recorded ones and those beside this boot's own.
func (h *Host) oldTrees() []string {
	found := map[string]bool{}
	h.state.mu.Lock()
	for _, r := range h.state.records {
		for _, tree := range r.Trees {
			found[tree] = true
		}
	}
	h.state.mu.Unlock()
	if h.groups != nil {
		for _, parent := range h.groups.parents() {
			entries, _ := os.ReadDir(parent)
			for _, entry := range entries {
				if entry.IsDir() {
					found[filepath.Join(parent, entry.Name())] = true
				}
			}
		}
	}
	var out []string
	for tree := range found {
		if h.isOldTree(tree) {
			out = append(out, tree)
		}
	}
	return out
}

// isOldTree keeps a damaged record from leading a sweep anywhere else.
func (h *Host) isOldTree(tree string) bool {
	if filepath.Clean(tree) != tree || !filepath.IsAbs(tree) {
		return false
	}
	boot, parent := filepath.Base(tree), filepath.Dir(tree)
	if !isHex(boot, 8) || boot == h.cfg.Boot || filepath.Base(parent) != basePrefix+h.cfg.ID {
		return false
	}
	_, err := os.Lstat(filepath.Join(tree, "cgroup.procs"))
	return err == nil
}

func (h *Host) oldRunDirs() []string {
	var out []string
	entries, _ := os.ReadDir(h.cfg.RunRoot)
	for _, entry := range entries {
		id, boot, ok := strings.Cut(entry.Name(), "-")
		if ok && entry.IsDir() && id == h.cfg.ID && isHex(boot, 8) && boot != h.cfg.Boot {
			out = append(out, filepath.Join(h.cfg.RunRoot, entry.Name()))
		}
	}
	return out
}
