package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/solo-run/solo/pkg/solo"
)

// groupsV1 limits by v1 controllers, each in its own hierarchy, and tracks and
// kills by a v2 mount without controllers where there is one, else by the freezer.
type groupsV1 struct {
	path  string
	roots []v1Root
	// unified is this boot's directory of the v2 mount, or "".
	unified string
	boot    cgroup1.Cgroup
}

type v1Root struct {
	name  cgroup1.Name
	mount string
}

func (g *groupsV1) dir(r v1Root) string { return filepath.Join(r.mount, g.path) }

func (g *groupsV1) root(name cgroup1.Name) (string, bool) {
	for _, r := range g.roots {
		if r.name == name {
			return g.dir(r), true
		}
	}
	return "", false
}

// planV1 chooses hierarchies and makes nothing; nil is a host without any.
func planV1(m mounts, id, boot string) *groupsV1 {
	g := &groupsV1{path: "/" + basePrefix + id + "/" + boot}
	wanted := []cgroup1.Name{cgroup1.Memory, cgroup1.Cpu, cgroup1.Pids}
	if m.unified != "" {
		g.unified = filepath.Join(m.unified, g.path)
	} else {
		wanted = append([]cgroup1.Name{cgroup1.Freezer}, append(wanted, cgroup1.Cpuacct)...)
	}
	for _, name := range wanted {
		if mount := m.v1[string(name)]; mount != "" {
			g.roots = append(g.roots, v1Root{name, mount})
		}
	}
	if g.unified == "" && len(g.roots) == 0 {
		return nil
	}
	return g
}

// subsystems are the library's controllers over the mounts that we found; it
// wants each mounted under its own name.
func (g *groupsV1) subsystems() ([]cgroup1.Subsystem, error) {
	var out []cgroup1.Subsystem
	for _, r := range g.roots {
		parent := filepath.Dir(r.mount)
		if named, err := os.Stat(filepath.Join(parent, string(r.name))); err != nil || !named.IsDir() {
			return nil, fmt.Errorf("controller %s is not mounted under its name", r.name)
		}
		switch r.name {
		case cgroup1.Memory:
			out = append(out, cgroup1.NewMemory(parent))
		case cgroup1.Cpu:
			out = append(out, cgroup1.NewCpu(parent))
		case cgroup1.Pids:
			out = append(out, cgroup1.NewPids(parent))
		case cgroup1.Freezer:
			out = append(out, cgroup1.NewFreezer(parent))
		case cgroup1.Cpuacct:
			out = append(out, cgroup1.NewCpuacct(parent))
		}
	}
	return out, nil
}

func (g *groupsV1) open() (map[string]solo.Layer, error) {
	var err error
	shares := uint64(1024 * cpuShare)
	g.boot, err = cgroup1.New(cgroup1.StaticPath(g.path), &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}},
		cgroup1.WithHierarchy(g.subsystems))
	if err != nil {
		return nil, err
	}
	if g.unified != "" {
		if err := os.MkdirAll(g.unified, 0o755); err != nil {
			return nil, err
		}
	}
	layers := map[string]solo.Layer{}
	for controller, layer := range layerOf {
		if _, ok := g.root(cgroup1.Name(controller)); ok {
			layers[layer] = solo.Layer{On: true}
		} else {
			layers[layer] = solo.Layer{Why: "cgroup controller " + controller + " is not mounted"}
		}
	}
	return layers, nil
}

func (g *groupsV1) create(name string, adopt bool) (_ *group, err error) {
	out := &group{name: name}
	if g.unified != "" {
		out.into = filepath.Join(g.unified, name)
		out.dirs = append(out.dirs, out.into)
		out.cpuStat = filepath.Join(out.into, "cpu.stat")
	}
	for _, r := range g.roots {
		out.dirs = append(out.dirs, filepath.Join(g.dir(r), name))
		out.tasks = append(out.tasks, filepath.Join(g.dir(r), name, "tasks"))
	}
	defer func() {
		if err != nil {
			if !adopt {
				out.remove(time.Now())
			}
			err = fmt.Errorf("cannot make the cgroup %s: %w", name, err)
		}
	}()
	if out.into != "" {
		if err := os.Mkdir(out.into, 0o755); err != nil && !(adopt && os.IsExist(err)) {
			return nil, err
		}
	}
	control, err := g.boot.New(name, &specs.LinuxResources{})
	if err != nil {
		return nil, err
	}
	var swap string
	if dir, ok := g.root(cgroup1.Memory); ok {
		dir = filepath.Join(dir, name)
		out.memoryNow = filepath.Join(dir, "memory.usage_in_bytes")
		out.memoryPeak = filepath.Join(dir, "memory.max_usage_in_bytes")
		out.memoryEvents = filepath.Join(dir, "memory.oom_control")
		swap = filepath.Join(dir, "memory.memsw.limit_in_bytes")
	}
	if dir, ok := g.root(cgroup1.Pids); ok {
		out.pidsNow = filepath.Join(dir, name, "pids.current")
		out.pidsEvents = filepath.Join(dir, name, "pids.events")
	}
	if dir, ok := g.root(cgroup1.Cpuacct); ok {
		out.cpuNanos = filepath.Join(dir, name, "cpuacct.usage")
	}
	out.limit = func(limits Limits) error {
		if err := control.Update(v1Resources(limits)); err != nil {
			return err
		}
		if out.memoryNow == "" || limits.MemoryBytes <= 0 {
			return nil
		}
		out.memoryLimit = uint64(limits.MemoryBytes)
		// Memory and swap together; absent where the kernel does not account swap.
		if err := os.WriteFile(swap, strconv.AppendInt(nil, limits.MemoryBytes, 10), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	return out, nil
}

func v1Resources(limits Limits) *specs.LinuxResources {
	res := &specs.LinuxResources{}
	if limits.MemoryBytes > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &limits.MemoryBytes}
	}
	if limits.CPUPercent > 0 {
		quota, period := cpuQuota(limits.CPUPercent), uint64(cpuPeriod)
		res.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if limits.PIDs > 0 {
		n := int64(limits.PIDs)
		res.Pids = &specs.LinuxPids{Limit: &n}
	}
	return res
}

func (g *groupsV1) trees() []string {
	var out []string
	if g.unified != "" {
		out = append(out, g.unified)
	}
	for _, r := range g.roots {
		out = append(out, g.dir(r))
	}
	return out
}

func (g *groupsV1) parents() []string {
	var out []string
	for _, tree := range g.trees() {
		out = append(out, filepath.Dir(tree))
	}
	return out
}

func (g *groupsV1) close(deadline time.Time) error { return removeTrees(g.trees(), deadline) }
