package early

import (
	"bufio"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// GuardGo and GuardBye are messages to the guard: from the first on it acts on
// the daemon's death, at the second it leaves.
const (
	GuardGo  = "go"
	GuardBye = "bye"
)

// GuardTree, GuardRunDir, GuardProc and GuardGone make the messages that tell
// the guard what there is to end and to remove.
func GuardTree(dir string) string   { return "tree " + dir }
func GuardRunDir(dir string) string { return "run " + dir }

// GuardProc names the leader of a session; a uid of 0 or below is nobody's own.
func GuardProc(p Proc, uid int) string {
	return "proc " + strconv.Itoa(p.PID) + " " + strconv.FormatUint(p.Start, 10) + " " + strconv.Itoa(uid)
}

// GuardGone takes back a GuardProc.
func GuardGone(pid int) string { return "gone " + strconv.Itoa(pid) }

// guardTime bounds the guard's work after the daemon's death.
const guardTime = time.Minute

// charge is what a guard has been told.
type charge struct {
	trees, runDirs []string
	procs          map[int]leader
	armed          bool
}

type leader struct {
	start uint64
	uid   int
}

// guard reads messages until the pipe's other end closes: that is the daemon's
// death, however it came about. It then ends what the daemon had started.
func guard() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	c := charge{procs: map[int]leader{}}
	lines := bufio.NewScanner(os.NewFile(fdControl, "daemon"))
	for lines.Scan() {
		if lines.Text() == GuardBye {
			os.Exit(0)
		}
		c.take(lines.Text())
	}
	if c.armed {
		c.end(time.Now().Add(guardTime))
	}
	os.Exit(0)
}

func (c *charge) take(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case GuardGo:
		c.armed = true
	case "tree":
		c.trees = append(c.trees, rest)
	case "run":
		c.runDirs = append(c.runDirs, rest)
	case "proc":
		fields := strings.Fields(rest)
		if len(fields) != 3 {
			return
		}
		pid, err1 := strconv.Atoi(fields[0])
		start, err2 := strconv.ParseUint(fields[1], 10, 64)
		uid, err3 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil && err3 == nil {
			c.procs[pid] = leader{start, uid}
		}
	case "gone":
		if pid, err := strconv.Atoi(rest); err == nil {
			delete(c.procs, pid)
		}
	}
}

func (c *charge) end(deadline time.Time) {
	KillTrees(c.trees, deadline)
	if len(c.procs) > 0 {
		KillMatching(c.matches, deadline)
	}
	for _, tree := range c.trees {
		RemoveTree(tree, deadline)
		// Another boot may have its groups there: then it stays.
		os.Remove(tree[:strings.LastIndexByte(tree, '/')])
	}
	for _, dir := range c.runDirs {
		RemoveRunDir(dir)
	}
}

func (c *charge) matches(p Proc) bool {
	for pid, l := range c.procs {
		if l.uid > 0 && p.UID == l.uid {
			return true
		}
		if SessionOf(p, pid, l.start) {
			return true
		}
	}
	return false
}

// SessionOf reports whether p belongs to the session that the process with this
// pid and start time leads or led. The number of a session is not given out
// again while it has a member.
func SessionOf(p Proc, pid int, start uint64) bool {
	if p.Session != pid {
		return false
	}
	if p.PID == pid {
		return p.Start == start
	}
	return p.Start >= start
}
