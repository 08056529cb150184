package early

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Proc is what /proc says of one process.
type Proc struct {
	PID, Session int
	State        byte
	// Start is in clock ticks since boot: with the pid it names one process.
	Start uint64
	// UID is its real user.
	UID int
}

// Dead reports whether it is only waiting to be reaped.
func (p Proc) Dead() bool { return p.State == 'Z' || p.State == 'X' }

// ReadProc reads the state of one process. UID is not filled in.
func ReadProc(pid int) (Proc, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Proc{}, err
	}
	return parseStat(pid, string(data))
}

// parseStat reads a line of /proc/PID/stat. The name in it is the process's own
// choice, so the fields are counted from its last parenthesis.
func parseStat(pid int, line string) (Proc, error) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < 20 {
		return Proc{}, fmt.Errorf("cannot read the state of process %d", pid)
	}
	session, err1 := strconv.Atoi(fields[3])
	start, err2 := strconv.ParseUint(fields[19], 10, 64)
	if err1 != nil || err2 != nil {
		return Proc{}, fmt.Errorf("cannot read the state of process %d", pid)
	}
	return Proc{PID: pid, State: fields[0][0], Session: session, Start: start}, nil
}

// KillMatching sends SIGKILL to every living process that match picks until
// none is left or the deadline is over. It is for hosts without cgroups: one
// that forks faster than /proc can be read gets away.
func KillMatching(match func(Proc) bool, deadline time.Time) (killed int, err error) {
	seen := map[int]bool{}
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		alive := 0
		for _, p := range procs() {
			if !p.Dead() && match(p) {
				alive++
				seen[p.PID] = true
				syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
		if alive == 0 {
			return len(seen), nil
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("cannot kill %d processes", alive)
		}
		time.Sleep(pause)
	}
}

func procs() []Proc {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	self := os.Getpid()
	var out []Proc
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 1 || pid == self {
			continue
		}
		p, err := ReadProc(pid)
		if err != nil {
			continue
		}
		info, err := os.Stat("/proc/" + name)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			p.UID = int(st.Uid)
		}
		out = append(out, p)
	}
	return out
}
