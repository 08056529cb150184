package early

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A tree is a directory of a mounted cgroup hierarchy with all that is below it.

// KillTrees sends SIGKILL to every process in the trees until none is left,
// however fast they fork, and returns how many it met at least. A tree that is
// gone is empty. The error after the deadline names what still lives.
func KillTrees(trees []string, deadline time.Time) (killed int, err error) {
	seen := map[int]bool{}
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		alive := 0
		for _, tree := range trees {
			for _, pid := range killTree(tree) {
				alive++
				seen[pid] = true
			}
		}
		if alive == 0 {
			return len(seen), nil
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("cannot kill %d processes below %s", alive, strings.Join(trees, ", "))
		}
		time.Sleep(pause)
	}
}

// killTree sends one round of SIGKILL and returns who was alive before it.
func killTree(tree string) []int {
	pids := treeProcs(tree)
	if len(pids) == 0 {
		return nil
	}
	if os.WriteFile(tree+"/cgroup.kill", []byte("1"), 0) == nil {
		return pids
	}
	state := tree + "/freezer.state"
	frozen := os.WriteFile(state, []byte("FROZEN"), 0) == nil
	if frozen {
		// Nobody forks from here on; who did meanwhile is on the list now.
		pids = treeProcs(tree)
	}
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if frozen {
		os.WriteFile(state, []byte("THAWED"), 0)
	}
	return pids
}

// treeProcs lists the living processes of a tree. Zombies are dead: their
// parent or init reaps them when it likes. This process is never on the list.
func treeProcs(tree string) []int {
	var pids []int
	self := os.Getpid()
	for _, path := range treeDirs(tree) {
		data, err := os.ReadFile(path + "/cgroup.procs")
		if err != nil {
			continue
		}
		for _, line := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(line)
			if err != nil || pid <= 1 || pid == self {
				continue
			}
			if p, err := ReadProc(pid); err == nil && !p.Dead() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// treeDirs lists a tree's directories, each before those in it. It is not
// path/filepath's WalkDir: see the package comment on what is imported.
func treeDirs(tree string) []string {
	dirs := []string{tree}
	for i := 0; i < len(dirs); i++ {
		entries, err := os.ReadDir(dirs[i])
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, dirs[i]+"/"+e.Name())
			}
		}
	}
	return dirs
}

// RemoveTree removes the groups of a tree, deepest first. It waits until the
// deadline for one that the kernel still holds busy.
func RemoveTree(tree string, deadline time.Time) error {
	dirs := treeDirs(tree)
	for i := len(dirs) - 1; i >= 0; i-- {
		for pause := 200 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
			err := syscall.Rmdir(dirs[i])
			if err == nil || errors.Is(err, syscall.ENOENT) {
				break
			}
			if err != syscall.EBUSY || time.Now().After(deadline) {
				return fmt.Errorf("cannot remove cgroup %s: %w", dirs[i], err)
			}
			time.Sleep(pause)
		}
	}
	return nil
}

// RemoveRunDir removes a run directory, and the file system that is mounted
// there, if one is.
func RemoveRunDir(dir string) error {
	for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	return os.RemoveAll(dir)
}
