package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
	"github.com/solo-run/solo/pkg/solo"
)

// groups makes cgroups below the one of this boot. Both versions of the kernel's
// interface stand behind it.
type groups interface {
	// create makes the group of one command, without limits; with adopt it is the one
	// that is there.
	create(name string, adopt bool) (*group, error)
	// trees are the directories of this boot, one in each hierarchy.
	trees() []string
	// parents hold the trees of earlier boots beside those of this one.
	parents() []string
	// close ends what is in the trees and removes them.
	close(deadline time.Time) error
}

// The layers that cgroups give.
const (
	layerMemory = "cgroup_memory"
	layerCPU    = "cgroup_cpu"
	layerPIDs   = "cgroup_pids"
)

var cgroupLayers = []string{layerMemory, layerCPU, layerPIDs}

var layerOf = map[string]string{"memory": layerMemory, "cpu": layerCPU, "pids": layerPIDs}

// basePrefix begins the name of every directory that solod makes in a cgroup
// mount; a sweep touches no other.
const basePrefix = "solo-"

// cpuShare is the weight of all services and builds together, as a part of what
// the daemon's own processes weigh: its answers come first on a busy host.
const cpuShare = 0.5

// group is the cgroup of one command: a directory in each hierarchy, and the
// files that hold its counters ("" where the host has none).
type group struct {
	name string
	dirs []string
	// into is the directory that the process is born in, or "".
	into string
	// tasks are the files that the shim writes 0 to.
	tasks []string
	// limit sets what is enforced.
	limit func(Limits) error
	// memoryLimit is what limit has set.
	memoryLimit uint64

	memoryNow, memoryPeak, memoryEvents string
	// cpuStat has usage_usec; cpuNanos is v1's plain number.
	cpuStat, cpuNanos   string
	pidsNow, pidsEvents string
}

// kill ends every process of the group.
func (g *group) kill(deadline time.Time) error {
	_, err := early.KillTrees(g.killDirs(), deadline)
	return err
}

// killDirs is one hierarchy that has them all: where a process is in one
// directory of the group it is in each.
func (g *group) killDirs() []string { return g.dirs[:1] }

func (g *group) remove(deadline time.Time) error {
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, early.RemoveTree(dir, deadline))
	}
	return errors.Join(errs...)
}

func (g *group) usage() solo.Usage {
	return solo.Usage{
		MemoryBytes: readNumber(g.memoryNow),
		MemoryPeak:  readNumber(g.memoryPeak),
		CPUUsec:     uint64(g.cpu() / time.Microsecond),
		PIDs:        readNumber(g.pidsNow),
	}
}

func (g *group) cpu() time.Duration {
	if g.cpuStat != "" {
		return time.Duration(readKey(g.cpuStat, "usage_usec")) * time.Microsecond
	}
	return time.Duration(readNumber(g.cpuNanos))
}

func (g *group) oomKills() uint64 { return readKey(g.memoryEvents, "oom_kill") }

func (g *group) pidsMax() uint64 { return readKey(g.pidsEvents, "max") }

// readNumber reads a file of one number; what cannot be read counts as 0.
func readNumber(path string) uint64 {
	if path == "" {
		return 0
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// readKey reads the number behind a key in a file of "key number" lines.
func readKey(path, key string) uint64 {
	if path == "" {
		return 0
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// mounts are the cgroup hierarchies that are mounted.
type mounts struct {
	// unified is the mount of v2, or "".
	unified string
	// v1 are mounts by controller.
	v1 map[string]string
}

// findMounts reads the mount table. Only mounts of a whole hierarchy count.
func findMounts(table string) (mounts, error) {
	m := mounts{v1: map[string]string{}}
	file, err := os.Open(table)
	if err != nil {
		return m, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 || fields[3] != "/" {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			m.unified = fields[4]
		case "cgroup":
			for _, option := range strings.Split(tail[2], ",") {
				m.v1[option] = fields[4]
			}
		}
	}
	return m, lines.Err()
}

// openGroups finds the hierarchies, records the trees to be and makes them. A
// host without cgroups gives no groups and no error: the layers say why.
func openGroups(id, boot string, record func(trees []string) error) (groups, map[string]solo.Layer, error) {
	off := func(why string) map[string]solo.Layer {
		layers := map[string]solo.Layer{}
		for _, name := range cgroupLayers {
			layers[name] = solo.Layer{Why: why}
		}
		return layers
	}
	m, err := findMounts("/proc/self/mountinfo")
	if err != nil {
		return nil, off("the mount table cannot be read"), record(nil)
	}
	var offered []string
	if m.unified != "" {
		data, _ := os.ReadFile(filepath.Join(m.unified, "cgroup.controllers"))
		offered = strings.Fields(string(data))
	}
	var g groups
	var layers map[string]solo.Layer
	var trees []string
	var build func() error
	if contains(offered, "memory") || contains(offered, "pids") || contains(offered, "cpu") {
		v2, why := planV2(m.unified, id, boot)
		if v2 == nil {
			return nil, off(why), record(nil)
		}
		g, trees = v2, v2.trees()
		build = func() error { layers, err = v2.open(); return err }
	} else {
		v1 := planV1(m, id, boot)
		if v1 == nil {
			return nil, off("no cgroup controller is mounted"), record(nil)
		}
		g, trees = v1, v1.trees()
		build = func() error { layers, err = v1.open(); return err }
	}
	if err := record(trees); err != nil {
		return nil, nil, err
	}
	if err := build(); err != nil {
		removeTrees(trees, time.Now().Add(killTime))
		return nil, off(reason(err)), nil
	}
	return g, layers, nil
}

// reason puts an error into the words of a layer: no path of the host.
func reason(err error) string {
	var perr *os.PathError
	if errors.As(err, &perr) {
		return fmt.Sprintf("cgroups cannot be made: %v (%s)", perr.Err, filepath.Base(perr.Path))
	}
	return "cgroups cannot be made: " + err.Error()
}

// removeTrees ends what is in the trees and removes them, and the parents that
// are empty then.
func removeTrees(trees []string, deadline time.Time) error {
	_, err := early.KillTrees(trees, deadline)
	errs := []error{err}
	for _, tree := range trees {
		errs = append(errs, early.RemoveTree(tree, deadline))
		if parent := filepath.Dir(tree); strings.HasPrefix(filepath.Base(parent), basePrefix) {
			// It may hold another boot's groups: then it stays.
			os.Remove(parent)
		}
	}
	return errors.Join(errs...)
}
