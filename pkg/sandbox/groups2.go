package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/solo"
)

// groupsV2 limits and tracks by the unified hierarchy.
type groupsV2 struct {
	mount string
	// path is this boot's group, below the mount.
	path string
	// leaf is where the daemon moves itself first, or "": a group that has
	// processes of its own may not pass controllers on.
	leaf        string
	controllers []string
	boot        *cgroup2.Manager
}

// supervisorLeaf is the group of the daemon itself where a part of the tree was
// delegated to it.
const supervisorLeaf = "supervisor"

// planV2 chooses the place for the groups and makes nothing; nil is a host that
// gives us none, and why.
func planV2(mount, id, boot string) (*groupsV2, string) {
	own, err := ownGroup()
	if err != nil {
		return nil, "solod's own cgroup is not known"
	}
	name := basePrefix + id + "/" + boot
	switch parent := filepath.Dir(own); {
	case own == "/":
		return &groupsV2{mount: mount, path: "/" + name}, ""
	case filepath.Base(own) == supervisorLeaf && delegated(filepath.Join(mount, parent)):
		return &groupsV2{mount: mount, path: filepath.Join(parent, name)}, ""
	case delegated(filepath.Join(mount, own)):
		return &groupsV2{mount: mount, path: filepath.Join(own, name), leaf: filepath.Join(mount, own, supervisorLeaf)}, ""
	case os.Geteuid() == 0:
		return &groupsV2{mount: mount, path: "/" + name}, ""
	}
	return nil, "solod is not root and no cgroup is delegated to it"
}

// ownGroup is the path of this process in the unified hierarchy.
func ownGroup() (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Clean(path), nil
		}
	}
	return "", os.ErrNotExist
}

// delegated reports whether systemd has given the group away (Delegate=), by the
// mark that it leaves, and whether we may use it.
func delegated(dir string) bool {
	if unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil || unix.Access(dir, unix.W_OK) != nil {
		return false
	}
	var mark [1]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark[:]); err == nil && n == 1 && mark[0] == '1' {
			return true
		}
	}
	return false
}

func (g *groupsV2) dir() string { return filepath.Join(g.mount, g.path) }

func (g *groupsV2) open() (map[string]solo.Layer, error) {
	if g.leaf != "" {
		if err := os.MkdirAll(g.leaf, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(g.leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	// The controllers that reach the place are those of its nearest ancestor.
	data, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(g.dir())), "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	layers := map[string]solo.Layer{}
	res := &cgroup2.Resources{}
	offered := strings.Fields(string(data))
	for controller, layer := range layerOf {
		if !contains(offered, controller) {
			layers[layer] = solo.Layer{Why: "cgroup controller " + controller + " is not available to solod"}
			continue
		}
		layers[layer] = solo.Layer{On: true}
		g.controllers = append(g.controllers, controller)
		switch controller {
		case "cpu":
			weight := uint64(100 * cpuShare)
			res.CPU = &cgroup2.CPU{Weight: &weight}
		case "memory":
			res.Memory = &cgroup2.Memory{}
		case "pids":
			res.Pids = &cgroup2.Pids{}
		}
	}
	if g.boot, err = cgroup2.NewManager(g.mount, g.path, res); err != nil {
		return nil, err
	}
	return layers, nil
}

func (g *groupsV2) create(name string, adopt bool) (_ *group, err error) {
	dir := filepath.Join(g.dir(), name)
	out := &group{name: name, dirs: []string{dir}, into: dir, cpuStat: filepath.Join(dir, "cpu.stat")}
	if err := os.Mkdir(dir, 0o755); err != nil && !(adopt && os.IsExist(err)) {
		return nil, fmt.Errorf("cannot make the cgroup %s: %w", name, err)
	}
	control, err := g.boot.NewChild(name, &cgroup2.Resources{})
	if err != nil {
		if !adopt {
			out.remove(time.Now())
		}
		return nil, fmt.Errorf("cannot make the cgroup %s: %w", name, err)
	}
	if contains(g.controllers, "memory") {
		out.memoryNow = filepath.Join(dir, "memory.current")
		out.memoryPeak = filepath.Join(dir, "memory.peak")
		out.memoryEvents = filepath.Join(dir, "memory.events")
	}
	if contains(g.controllers, "pids") {
		out.pidsNow = filepath.Join(dir, "pids.current")
		out.pidsEvents = filepath.Join(dir, "pids.events")
	}
	out.limit = func(limits Limits) error {
		if err := control.Update(v2Resources(g.controllers, limits)); err != nil {
			return err
		}
		if out.memoryNow != "" {
			out.memoryLimit = uint64(max(limits.MemoryBytes, 0))
		}
		return nil
	}
	return out, nil
}

func v2Resources(controllers []string, limits Limits) *cgroup2.Resources {
	res := &cgroup2.Resources{}
	for _, controller := range controllers {
		switch controller {
		case "memory":
			if limits.MemoryBytes > 0 {
				none, whole := int64(0), true
				res.Memory = &cgroup2.Memory{Max: &limits.MemoryBytes, Swap: &none, OOMGroup: &whole}
			}
		case "cpu":
			if limits.CPUPercent > 0 {
				quota, period := cpuQuota(limits.CPUPercent), uint64(cpuPeriod)
				res.CPU = &cgroup2.CPU{Max: cgroup2.NewCPUMax(&quota, &period)}
			}
		case "pids":
			if limits.PIDs > 0 {
				res.Pids = &cgroup2.Pids{Max: int64(limits.PIDs)}
			}
		}
	}
	return res
}

func (g *groupsV2) trees() []string { return []string{g.dir()} }

func (g *groupsV2) parents() []string { return []string{filepath.Dir(g.dir())} }

func (g *groupsV2) close(deadline time.Time) error { return removeTrees(g.trees(), deadline) }
