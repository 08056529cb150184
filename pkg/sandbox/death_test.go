package sandbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
)

// daemonCommand is a process that opens a host of its own and starts a child for
// each mode.
func daemonCommand(t *testing.T, cfg sandbox.Config, modes ...string) *exec.Cmd {
	t.Helper()
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"child", "daemon", string(data)}, modes...)
	return cmd
}

func startDaemon(t *testing.T, cmd *exec.Cmd) iter.Seq[string] {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return lines(out)
}

func lines(r io.Reader) iter.Seq[string] {
	buf := bufio.NewReader(r)
	return func(yield func(string) bool) {
		for {
			line, err := buf.ReadString('\n')
			if err != nil || !yield(strings.TrimSuffix(line, "\n")) {
				return
			}
		}
	}
}

// collect reads what a daemon with one child of the mode "family stay" says: its
// family has four members.
func collect(t *testing.T, out iter.Seq[string]) (pids []int, layers map[string]solo.Layer) {
	t.Helper()
	for line := range out {
		if pid, ok := strings.CutPrefix(line, "stay "); ok {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		} else if text, ok := strings.CutPrefix(line, "layers "); ok {
			if err := json.Unmarshal([]byte(text), &layers); err != nil {
				t.Fatal(err)
			}
		} else if strings.HasPrefix(line, "error") {
			t.Fatal(line)
		}
		if len(pids) == 4 && layers != nil {
			return pids, layers
		}
	}
	t.Fatalf("the daemon ended early, after %v", pids)
	return nil, nil
}

// killStrays ends children of the tests that have left every session, by the
// mode in their arguments.
func killStrays(t *testing.T, mode string) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		data, err := os.ReadFile(dir + "/cmdline")
		if err != nil || string(data) != "child\x00"+mode+"\x00" {
			continue
		}
		exe, _ := os.Readlink(dir + "/exe")
		if own, _ := os.Readlink("/proc/self/exe"); exe != own {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// kill -9 of the daemon ends what it started, in every session and whatever it
// ignores, and leaves no group and no directory.
func TestGuard_DaemonKilled(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cmd := daemonCommand(t, cfg, "family stay")
	pids, _ := collect(t, startDaemon(t, cmd))
	cmd.Process.Kill()
	cmd.Wait()
	until(t, "every process has ended", func() bool { return !anyAlive(pids) })
	until(t, "groups and directories are gone", func() bool { return len(groupDirs(cfg.ID)) == 0 && dirGone(cfg) })
}

func anyAlive(pids []int) bool {
	for _, pid := range pids {
		if alive(pid) {
			return true
		}
	}
	return false
}

// guardOf finds the guard of a daemon: its child that runs as one.
func guardOf(daemon int) (int, bool) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		data, _ := os.ReadFile(dir + "/cmdline")
		status, _ := os.ReadFile(dir + "/status")
		if string(data) == "solod\x00sandbox-guard\x00" && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", daemon)) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			return pid, err == nil
		}
	}
	return 0, false
}

// The guard is replaced when it dies, ignores polite signals, and the new one
// does the same work.
func TestGuard_Replaced(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cmd := daemonCommand(t, cfg, "family stay")
	pids, _ := collect(t, startDaemon(t, cmd))
	first, ok := guardOf(cmd.Process.Pid)
	if !ok {
		t.Fatal("there is no guard")
	}
	syscall.Kill(first, syscall.SIGTERM)
	syscall.Kill(first, syscall.SIGKILL)
	until(t, "another guard is there", func() bool { pid, ok := guardOf(cmd.Process.Pid); return ok && pid != first })
	cmd.Process.Kill()
	cmd.Wait()
	until(t, "every process has ended", func() bool { return !anyAlive(pids) })
	until(t, "groups and directories are gone", func() bool { return len(groupDirs(cfg.ID)) == 0 && dirGone(cfg) })
}

// Where the guard dies with the daemon, the next boot sweeps: all of the earlier
// boots, nothing of its own, nothing of another id.
func TestSweep(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cmd := daemonCommand(t, cfg, "family stay")
	pids, _ := collect(t, startDaemon(t, cmd))
	guard, ok := guardOf(cmd.Process.Pid)
	if !ok {
		t.Fatal("there is no guard")
	}
	// Stopped first, so that neither sees the other die.
	syscall.Kill(cmd.Process.Pid, syscall.SIGSTOP)
	syscall.Kill(guard, syscall.SIGKILL)
	until(t, "the guard is dead", func() bool { return !alive(guard) })
	cmd.Process.Kill()
	cmd.Wait()
	// The kernel's own signal ends the program; its family is still there.
	until(t, "the program has ended", func() bool {
		n := 0
		for _, pid := range pids {
			if alive(pid) {
				n++
			}
		}
		return n == 3
	})
	other := config(t)
	bystander := open(t, other)
	bc, bout := bystander.command(t, "bystander", "stay")
	bp := bystander.start(t, bc)
	if _, err := bufio.NewReader(bout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	next := cfg
	next.Boot = randomHex(8)
	r := open(t, next)
	c, out := r.command(t, "own", "stay")
	p := r.start(t, c)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	killed, err := r.Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if killed != 3 {
		t.Errorf("swept %d processes, want 3", killed)
	}
	if anyAlive(pids) {
		t.Error("something of the earlier boot is alive")
	}
	if !dirGone(cfg) {
		t.Error("the earlier boot's directory is left")
	}
	for _, dir := range groupDirs(cfg.ID) {
		if strings.Contains(dir, cfg.Boot) {
			t.Errorf("%s is left", dir)
		}
	}
	if !alive(p.PID()) || !alive(bp.PID()) {
		t.Error("the sweep ended what was not of an earlier boot")
	}
	if killed, err := r.Sweep(context.Background()); err != nil || killed != 0 {
		t.Errorf("second sweep: %d, %v", killed, err)
	}
	data, err := os.ReadFile(filepath.Join(cfg.StateDir, "boots.json"))
	if err != nil || strings.Contains(string(data), cfg.Boot) || !strings.Contains(string(data), next.Boot) {
		t.Errorf("state %s, %v", data, err)
	}
	p.Kill()
	r.finish(t, p, "own")
	bp.Kill()
	bystander.finish(t, bp, "bystander")
}

// A record that names other places leads a sweep nowhere.
func TestSweep_BadRecord(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	outside := filepath.Join(t.TempDir(), "solo-"+cfg.ID, "12345678")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	record := fmt.Sprintf(`[{"boot":"12345678","run_dir":"/","trees":["/sys/fs/cgroup/pids","/","/sys/fs/cgroup/memory/../pids",%q]}]`, outside)
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "boots.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, cfg)
	if killed, err := r.Sweep(context.Background()); err != nil || killed != 0 {
		t.Errorf("swept %d, %v", killed, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

// Without root everything that needs none still works, and says what is off.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	cfg := config(t)
	if err := os.Chown(filepath.Dir(cfg.RunRoot), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := daemonCommand(t, cfg, "family stay")
	cmd.Path = readableCopy(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	pids, layers := collect(t, startDaemon(t, cmd))
	t.Cleanup(func() { killAll(pids) })
	for _, name := range []string{"cgroup_memory", "cgroup_cpu", "cgroup_pids", "uid"} {
		if l := layers[name]; l.On || l.Why == "" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if !layers["no_new_privs"].On || !layers["rlimits"].On {
		t.Errorf("layers %v", layers)
	}
	cmd.Process.Kill()
	cmd.Wait()
	until(t, "the program has ended and its directory is gone", func() bool { return !alive(leaderOf(pids)) && dirGone(cfg) })

	strict := cfg
	strict.Isolation, strict.Boot = sandbox.IsolationStrict, randomHex(8)
	cmd = daemonCommand(t, strict)
	cmd.Path = readableCopy(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.Output()
	if err == nil {
		t.Errorf("strict was accepted: %s", out)
	}
	for _, want := range []string{"strict", "uid (", "cgroup_memory ("} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

func killAll(pids []int) {
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// leaderOf is the program among its family: the first to be forked.
func leaderOf(pids []int) int {
	low := pids[0]
	for _, pid := range pids {
		low = min(low, pid)
	}
	return low
}

// readableCopy is this binary where any user can reach it.
func readableCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "child")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
