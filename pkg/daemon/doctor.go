package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
)

// Finding is what [Doctor] says of one thing it looked at.
type Finding struct {
	Check string `json:"check"`
	// Status is ok, warn or fail.
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Advice is what to do, "" where nothing has to be done.
	Advice string `json:"advice"`
}

// The statuses of a finding.
const (
	StatusOK   = "ok"
	StatusWarn = "warn"
	StatusFail = "fail"
)

// Doctor looks at this host and at a data directory, and changes nothing. With a
// daemon that runs on it, what only it may open is left out.
func Doctor(ctx context.Context, dir string) []Finding {
	d := &doctor{}
	d.host(ctx)
	dir, err := filepath.Abs(dir)
	if err != nil {
		d.fail("data directory", err.Error(), "")
		return d.findings
	}
	if d.directory(dir) {
		d.store(ctx, dir)
		d.artifacts(ctx, dir)
		d.sources(dir)
	}
	return d.findings
}

type doctor struct{ findings []Finding }

func (d *doctor) add(check, status, detail, advice string) {
	d.findings = append(d.findings, Finding{check, status, detail, advice})
}
func (d *doctor) ok(check, detail string)           { d.add(check, StatusOK, detail, "") }
func (d *doctor) warn(check, detail, advice string) { d.add(check, StatusWarn, detail, advice) }
func (d *doctor) fail(check, detail, advice string) { d.add(check, StatusFail, detail, advice) }

func (d *doctor) host(ctx context.Context) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release := unix.ByteSliceToString(u.Release[:])
		major, minor := kernel(release)
		if major < 5 || major == 5 && minor < 14 {
			d.fail("kernel", release, "use Linux 5.14 or later")
		} else {
			d.ok("kernel", release)
		}
	}
	layers, err := sandbox.Survey()
	if err != nil {
		d.fail("isolation", err.Error(), "")
	}
	names := make([]string, 0, len(layers))
	for name := range layers {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if l := layers[name]; l.On {
			d.ok("isolation "+name, "on")
		} else {
			d.warn("isolation "+name, "off: "+l.Why, `services run without this layer; security.isolation = "strict" refuses to`)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "version").Output()
	if err != nil {
		d.fail("go toolchain", "go cannot be run: "+err.Error(), "install Go, or name it by build.go")
	} else {
		d.ok("go toolchain", strings.TrimSpace(string(out)))
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		detail := fmt.Sprintf("%d may be open", files.Max)
		if files.Max < 8192 {
			d.warn("open files", detail, "raise the limit: a service needs about six")
		} else {
			d.ok("open files", detail)
		}
	}
}

func kernel(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, _ = strconv.Atoi(parts[0])
	minor, _ = strconv.Atoi(parts[1])
	return major, minor
}

// directory reports whether there is a data directory to look into.
func (d *doctor) directory(dir string) bool {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.warn("data directory", dir+" is not there", "solod makes it at its first start; --data names another")
		return false
	case err != nil:
		d.fail("data directory", err.Error(), "")
		return false
	case !info.IsDir():
		d.fail("data directory", dir+" is not a directory", "name another by solo.data_dir")
		return false
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		d.fail("data directory", fmt.Sprintf("%s has mode %04o", dir, mode), "see who has read it, then chmod 700 it")
	} else if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		d.fail("data directory", fmt.Sprintf("%s belongs to uid %d", dir, st.Uid), "run this as that user")
		return false
	} else {
		d.ok("data directory", dir)
	}
	if err := checkDisk(dir); err != nil {
		d.fail("disk", solo.AsError(err).Message, "make room, or mount it read-write")
	} else {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil {
			free := fs.Bavail * uint64(fs.Bsize)
			detail := fmt.Sprintf("%d MiB free", free>>20)
			if free < 1<<30 {
				d.warn("disk", detail, "builds and logs need room")
			} else {
				d.ok("disk", detail)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
		d.warn("data directory", "no solod has used it yet", "")
	}
	return true
}

func (d *doctor) store(ctx context.Context, dir string) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path + ".initialised"); err == nil {
			d.fail("store", path+" is gone", "put back a backup: solo restore")
		}
		return
	}
	if holder := lockHolder(dir); holder != "" {
		d.ok("store", "in use by "+holder+": `solo events verify` proves it")
		return
	}
	report, err := eventlog.VerifyFile(ctx, path)
	switch {
	case err != nil:
		d.fail("store", err.Error(), "put back a backup: solo restore")
	case !report.OK:
		d.fail("event log", fmt.Sprintf("record %d of %s does not hold", *report.BadID, path), "put back a backup, or save what is before it: solo doctor --salvage DIR")
	default:
		d.ok("event log", fmt.Sprintf("events %d to %d, proved", report.FirstID, report.LastID))
	}
}

// lockHolder is who has the data directory, "" for nobody.
func lockHolder(dir string) string {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return ""
	}
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0)
	return "solod with pid " + strings.TrimSpace(string(text[:n]))
}

// artifacts holds each binary against its sum.
func (d *doctor) artifacts(ctx context.Context, dir string) {
	good := 0
	entries, _ := os.ReadDir(filepath.Join(dir, "artifacts"))
	for _, e := range entries {
		name := e.Name()
		if len(name) != 64 || ctx.Err() != nil {
			continue
		}
		path := filepath.Join(dir, "artifacts", name)
		want, err := os.ReadFile(path + ".sum")
		if err != nil {
			d.warn("artifact", name+" has no sum", "it is built again when it is needed")
			continue
		}
		got, err := fileSum(path)
		if err != nil || got != strings.TrimSpace(string(want)) {
			d.warn("artifact", name+" is damaged", "it is built again when it is needed")
			continue
		}
		good++
	}
	d.ok("artifacts", fmt.Sprintf("%d whole", good))
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (d *doctor) sources(dir string) {
	good := 0
	filepath.WalkDir(filepath.Join(dir, "sources"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			return nil
		}
		text, err := os.ReadFile(path)
		var src solo.Source
		if err != nil || json.Unmarshal(text, &src) != nil {
			d.fail("source", e.Name()+" cannot be read", "its artifact still runs; deploy the source again")
			return nil
		}
		good++
		return nil
	})
	d.ok("sources", fmt.Sprintf("%d whole", good))
}

// Salvage saves what the log of a stopped daemon holds before its damage, with all
// state that can still be read, into a new data directory.
func Salvage(ctx context.Context, dir, to string) (*solo.VerifyReport, error) {
	if holder := lockHolder(dir); holder != "" {
		return nil, fmt.Errorf("cannot salvage %s: %s has it", dir, holder)
	}
	if entries, err := os.ReadDir(to); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("cannot salvage into %s: it is not empty; name a new directory", to)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, fmt.Errorf("cannot salvage: %w", err)
	}
	report, err := eventlog.Salvage(ctx, filepath.Join(dir, storeFile), filepath.Join(to, storeFile))
	if err != nil {
		return nil, err
	}
	if _, err := link(dir, to); err != nil {
		return nil, fmt.Errorf("cannot salvage sources, artifacts and logs: %w", err)
	}
	if err := restoreFile(filepath.Join(to, lockFile), lockFile, strings.NewReader("")); err != nil {
		return nil, err
	}
	return &report, syncTree(to)
}
