package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Store is a directory of logs. Its methods may be called by many goroutines at
// once.
type Store struct {
	dir string

	// mu orders all writes, so that an id that can be read means that every lower
	// one can be read too.
	mu       sync.Mutex
	services map[solo.Key]*service
	last     uint64
	newest   map[string]uint64
	changed  chan struct{}
	dropped  uint64
	closed   bool
}

// service is the log of one service.
type service struct {
	key      solo.Key
	dir      string
	segments []segment
	file     *os.File
	limit    int64
	writers  int
}

// segment is one file; size is what was written to it whole.
type segment struct {
	first uint64
	size  int64
}

// ownerFile tells, in a service's directory, whose it is.
const ownerFile = "service.json"

type owner struct {
	Tenant  string `json:"tenant"`
	Service string `json:"service"`
}

const suffix = ".log"

// Open opens or makes the store in dir, 0700.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the logs: %w", err)
	}
	s := &Store{dir: dir, services: map[solo.Key]*service{}, newest: map[string]uint64{}, changed: make(chan struct{})}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the directory of the logs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		v, err := openService(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		s.services[v.key] = v
		last, err := v.lastID()
		if err != nil {
			return nil, err
		}
		s.last = max(s.last, last)
		s.newest[v.key.Tenant] = max(s.newest[v.key.Tenant], last)
	}
	return s, nil
}

// openService reads what is kept of one service; nil where the directory is not
// whole, which a kill during its making leaves.
func openService(dir string) (*service, error) {
	text, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read whose log %s is: %w", dir, err)
	}
	var o owner
	if json.Unmarshal(text, &o) != nil || (solo.Key{Tenant: o.Tenant, Service: o.Service}).Digest() != filepath.Base(dir) {
		return nil, nil
	}
	v := &service{key: solo.Key{Tenant: o.Tenant, Service: o.Service}, dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the log %s: %w", dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("cannot read the log %s: %w", dir, err)
		}
		v.segments = append(v.segments, segment{first, info.Size()})
	}
	sort.Slice(v.segments, func(i, j int) bool { return v.segments[i].first < v.segments[j].first })
	return v, nil
}

func (v *service) path(first uint64) string {
	return filepath.Join(v.dir, fmt.Sprintf("%020d%s", first, suffix))
}

// lastID is the id of the newest whole line.
func (v *service) lastID() (uint64, error) {
	for i := len(v.segments) - 1; i >= 0; i-- {
		last := uint64(0)
		err := scan(v.path(v.segments[i].first), 0, func(l *stored, _ int64) bool { last = l.ID; return true })
		if err != nil {
			return 0, err
		}
		if last > 0 {
			return last, nil
		}
	}
	return 0, nil
}

// Close ends the store; lines that come later are dropped.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, v := range s.services {
		errs = append(errs, v.closeFile())
	}
	return errors.Join(errs...)
}

func (v *service) closeFile() error {
	if v.file == nil {
		return nil
	}
	err := v.file.Close()
	v.file = nil
	return err
}

// Dropped counts the lines that the disk refused.
func (s *Store) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Writer writes the lines of one instance.
type Writer struct {
	store    *Store
	service  *service
	instance int
	version  int
	once     sync.Once
}

// Writer returns a writer for an instance. limitBytes bounds what is kept of the
// service, over all its instances.
func (s *Store) Writer(key solo.Key, instance, version int, limitBytes int64) (*Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.services[key]
	if v == nil {
		v = &service{key: key, dir: filepath.Join(s.dir, key.Digest())}
		if err := v.make(); err != nil {
			return nil, solo.StorageError("the log of the service cannot be written", err)
		}
		// A power cut may have taken the owner's name and left the lines.
		if left, err := openService(v.dir); err == nil && left != nil {
			v.segments = left.segments
		}
		s.services[key] = v
	}
	v.limit = max(limitBytes, minLimit)
	v.writers++
	return &Writer{store: s, service: v, instance: instance, version: version}, nil
}

// minLimit leaves room for one line of the greatest length in each segment.
const minLimit = 1 << 20

func (v *service) make() error {
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(owner{v.key.Tenant, v.key.Service})
	if err != nil {
		return err
	}
	tmp := filepath.Join(v.dir, ownerFile+".new")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(v.dir, ownerFile))
}

// segmentsKept is into how many segments the bytes of a service are divided.
const segmentsKept = 4

// Line writes one line. stream is stdout, stderr or log; level is debug, info,
// warn or error.
func (w *Writer) Line(stream, level string, line []byte, truncated bool) {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || w.service.writers == 0 {
		s.dropped++
		return
	}
	id := max(s.last+1, uint64(time.Now().UnixMicro()))
	raw := encode(&stored{ID: id, Instance: w.instance, Version: w.version, Stream: stream, Level: level, Line: string(line), Truncated: truncated})
	if err := w.service.write(id, raw); err != nil {
		s.dropped++
		return
	}
	s.last = id
	s.newest[w.service.key.Tenant] = id
	close(s.changed)
	s.changed = make(chan struct{})
}

// write appends one record to the newest segment, beginning a new one where it
// is full.
func (v *service) write(id uint64, raw []byte) error {
	if n := len(v.segments); n > 0 && v.segments[n-1].size+int64(len(raw)) > v.limit/segmentsKept {
		if err := v.closeFile(); err != nil {
			return err
		}
		v.segments = append(v.segments, segment{first: id})
	}
	if len(v.segments) == 0 {
		v.segments = append(v.segments, segment{first: id})
	}
	last := &v.segments[len(v.segments)-1]
	if v.file == nil {
		if err := v.openNewest(last); err != nil {
			return err
		}
	}
	if _, err := v.file.WriteAt(raw, last.size); err != nil {
		return err
	}
	last.size += int64(len(raw))
	return v.trim()
}

// openNewest opens the newest segment behind its last whole line.
func (v *service) openNewest(last *segment) error {
	file, err := os.OpenFile(v.path(last.first), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	whole := int64(0)
	if err := scan(file.Name(), 0, func(_ *stored, end int64) bool { whole = end; return true }); err != nil {
		file.Close()
		return err
	}
	if err := file.Truncate(whole); err != nil {
		file.Close()
		return err
	}
	v.file, last.size = file, whole
	return nil
}

// trim removes the oldest segments until the bytes are within the limit.
func (v *service) trim() error {
	total := int64(0)
	for _, s := range v.segments {
		total += s.size
	}
	for total > v.limit && len(v.segments) > 1 {
		if err := os.Remove(v.path(v.segments[0].first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= v.segments[0].size
		v.segments = v.segments[1:]
	}
	return nil
}

// Close ends the writer.
func (w *Writer) Close() error {
	var err error
	w.once.Do(func() {
		s := w.store
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.service.writers--; w.service.writers <= 0 {
			w.service.writers = 0
			err = w.service.closeFile()
		}
	})
	return err
}

// Purge forgets all lines of a service; lines that its writers still bring are
// dropped.
func (s *Store) Purge(key solo.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.services[key]
	if v == nil {
		return nil
	}
	delete(s.services, key)
	v.writers = 0
	return errors.Join(v.closeFile(), os.RemoveAll(v.dir))
}

// PurgeOthers forgets the lines of every service that is not known.
func (s *Store) PurgeOthers(known map[solo.Key]bool) error {
	s.mu.Lock()
	var others []solo.Key
	for key := range s.services {
		if !known[key] {
			others = append(others, key)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, key := range others {
		errs = append(errs, s.Purge(key))
	}
	return errors.Join(errs...)
}

// Wait returns when there is a line of the tenant ("" is any) after that id; the
// error is ctx's.
func (s *Store) Wait(ctx context.Context, tenant string, after uint64) error {
	for {
		s.mu.Lock()
		changed := s.changed
		newest := s.newest[tenant]
		if tenant == "" {
			newest = s.last
		}
		s.mu.Unlock()
		if newest > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
