package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
)

// sources keeps what tenants wrote, outside bbolt: a directory for each service,
// a file for each source, named by its digest.
type sources struct{ dir string }

func openSources(dir string) (*sources, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the sources: %w", err)
	}
	return &sources{dir}, nil
}

func (s *sources) path(key solo.Key, digest string) string {
	return filepath.Join(s.dir, key.Digest(), digest+".json")
}

// save stores a source durably; one that is there already stays. undo takes back
// what was stored, for a deploy that comes to nothing.
func (s *sources) save(key solo.Key, digest string, src solo.Source) (undo func(), err error) {
	path := s.path(key, digest)
	if _, err := os.Lstat(path); err == nil {
		return func() {}, nil
	}
	undo = func() {
		os.Remove(path)
		// Only where it was the service's first.
		os.Remove(filepath.Dir(path))
	}
	if err := s.write(path, src); err != nil {
		return undo, solo.StorageError("the source cannot be stored", err)
	}
	return undo, nil
}

func (s *sources) write(path string, src solo.Source) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(src)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(text); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	failpoint.Hit("source.written")
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDirs(dir, filepath.Dir(dir))
}

func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads a source back.
func (s *sources) load(key solo.Key, digest string) (solo.Source, error) {
	text, err := os.ReadFile(s.path(key, digest))
	if err != nil {
		return solo.Source{}, fmt.Errorf("cannot read a stored source: %w", err)
	}
	var src solo.Source
	if err := json.Unmarshal(text, &src); err != nil {
		return solo.Source{}, fmt.Errorf("cannot read the stored source %s: %w", digest, err)
	}
	return src, nil
}

// sweep removes what no version names: a daemon that was killed in the middle of a
// deploy, or of a purge, has left it. known are the digests of each service.
func (s *sources) sweep(known map[string]map[string]bool) error {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range dirs {
		digests, ok := known[d.Name()]
		if !ok {
			errs = append(errs, os.RemoveAll(filepath.Join(s.dir, d.Name())))
			continue
		}
		files, err := os.ReadDir(filepath.Join(s.dir, d.Name()))
		errs = append(errs, err)
		for _, f := range files {
			if digest, whole := strings.CutSuffix(f.Name(), ".json"); !whole || !digests[digest] {
				errs = append(errs, os.Remove(filepath.Join(s.dir, d.Name(), f.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// forget removes all sources of a service.
func (s *sources) forget(key solo.Key) error {
	return os.RemoveAll(filepath.Join(s.dir, key.Digest()))
}
