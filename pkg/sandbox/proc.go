package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox/internal/early"
	"github.com/solo-run/solo/pkg/solo"
)

// Proc is a started command with all that it forks. It must be released.
type Proc struct {
	host *Host
	name string
	uid  int
	// sharedUID: the uid is that of all builds.
	sharedUID bool
	group     *group
	forked    forked
	started   time.Time
	limits    Limits
	// start names the process together with its pid, where there is no group.
	start uint64

	done chan struct{}
	// status and killErr are set before done closes.
	status  Status
	killErr error
	release sync.Once
}

// PID is that of the program in the daemon's view.
func (p *Proc) PID() int { return p.forked.pid }

// UID is the program's user, or -1 where it runs as the daemon's own.
func (p *Proc) UID() int { return p.uid }

// Done closes when the program is reaped and nothing is left of its group.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Exit is how it ended. Call it after Done.
func (p *Proc) Exit() Status {
	<-p.done
	return p.status
}

// Signal sends a signal to the program alone. The error is os.ErrProcessDone
// once it has ended.
func (p *Proc) Signal(sig syscall.Signal) error {
	conn, err := p.forked.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	var sigErr error
	if err := conn.Control(func(fd uintptr) { sigErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return os.ErrProcessDone
	}
	if errors.Is(sigErr, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return sigErr
}

// Kill ends the program and all that it forked, and waits until they are gone.
// The error names what could not be ended within 10 seconds.
func (p *Proc) Kill() error {
	p.Signal(syscall.SIGKILL)
	if p.group != nil {
		if err := p.group.kill(time.Now().Add(killTime)); err != nil {
			return fmt.Errorf("cannot end %s: %w", p.name, err)
		}
	}
	select {
	case <-p.done:
		return p.killErr
	case <-time.After(killTime):
		return fmt.Errorf("cannot end %s: process %d is still there", p.name, p.forked.pid)
	}
}

// wait reaps the program, ends what it has left behind and reads the counters
// while the group is still there.
func (p *Proc) wait() {
	status, usage, err := reap(p.forked)
	ran := time.Since(p.started)
	p.forked.pidfd.Close()
	p.killErr = p.endRest()
	s := Status{
		Code: -1,
		Ran:  ran,
		CPU:  time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		Peak: uint64(usage.Maxrss) * 1024,
	}
	switch {
	case err != nil:
		p.killErr = errors.Join(p.killErr, fmt.Errorf("cannot reap %s: %w", p.name, err))
	case status.Signaled():
		s.Signal = status.Signal()
	default:
		s.Code = status.ExitStatus()
	}
	if p.group != nil {
		s.Limit = p.group.memoryLimit
		if peak := p.group.usage().MemoryPeak; peak > 0 {
			s.Peak = peak
		}
		s.CPU = p.group.cpu()
		s.OOMKills = p.group.oomKills()
		s.OOM = s.Signal == syscall.SIGKILL && s.OOMKills > 0
		s.PIDsMax = p.group.pidsMax()
	}
	p.status = s
	close(p.done)
}

// endRest ends what the program forked. Without a group that is its session
// and, where it had a user of its own, all of that user.
func (p *Proc) endRest() error {
	deadline := time.Now().Add(killTime)
	if p.group != nil {
		return p.group.kill(deadline)
	}
	_, err := early.KillMatching(func(other early.Proc) bool {
		return early.SessionOf(other, p.forked.pid, p.start) || p.uid >= 0 && !p.sharedUID && other.UID == p.uid
	}, deadline)
	return err
}

// Usage is what the kernel has counted so far.
func (p *Proc) Usage() (solo.Usage, error) {
	select {
	case <-p.done:
		return solo.Usage{}, os.ErrProcessDone
	default:
	}
	if p.group == nil {
		return procUsage(p.forked.pid)
	}
	usage := p.group.usage()
	if p.group.memoryNow == "" || p.group.pidsNow == "" {
		own, err := procUsage(p.forked.pid)
		if err != nil {
			return solo.Usage{}, err
		}
		if p.group.memoryNow == "" {
			usage.MemoryBytes, usage.MemoryPeak = own.MemoryBytes, own.MemoryPeak
		}
		if p.group.pidsNow == "" {
			usage.PIDs = own.PIDs
		}
	}
	return usage, nil
}

// Sample is a cheap look at the usage: the memory of all, and the program's own
// CPU time and threads. The kernel's counters of a group's CPU time make it add up
// all cores first.
func (p *Proc) Sample() (solo.Usage, error) {
	select {
	case <-p.done:
		return solo.Usage{}, os.ErrProcessDone
	default:
	}
	if p.group == nil || p.group.memoryNow == "" {
		return procUsage(p.forked.pid)
	}
	u := solo.Usage{MemoryBytes: readNumber(p.group.memoryNow)}
	return u, addStat(&u, p.forked.pid)
}

// clockTick is the unit of /proc's times; it is 100 on every Linux.
const clockTick = time.Second / 100

// procUsage is that of the program alone, for hosts without cgroups.
func procUsage(pid int) (solo.Usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return solo.Usage{}, os.ErrProcessDone
	}
	var out solo.Usage
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			out.MemoryBytes = n * 1024
		case "VmHWM":
			out.MemoryPeak = n * 1024
		}
	}
	return out, addStat(&out, pid)
}

// addStat adds the CPU time and the threads of one process.
func addStat(u *solo.Usage, pid int) error {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return os.ErrProcessDone
	}
	// The name in the second field may hold anything; what follows it does not.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) > 17 {
		user, _ := strconv.ParseUint(fields[11], 10, 64)
		system, _ := strconv.ParseUint(fields[12], 10, 64)
		u.CPUUsec = (user + system) * uint64(clockTick/time.Microsecond)
		u.PIDs, _ = strconv.ParseUint(fields[17], 10, 64)
	}
	return nil
}

// Release removes the group and gives the uid back, once; call it after Done. If
// something of the group could not be ended, both stay taken and the error says so.
func (p *Proc) Release() (err error) {
	<-p.done
	p.release.Do(func() {
		if p.killErr != nil {
			err = p.killErr
			return
		}
		if p.group != nil {
			if err = p.group.remove(time.Now().Add(time.Second)); err != nil {
				return
			}
		}
		p.host.guard.gone(p.forked.pid)
		if p.uid >= 0 && !p.sharedUID {
			p.host.uids.release(p.uid)
		}
		p.host.unreserve(p.name)
	})
	return err
}
