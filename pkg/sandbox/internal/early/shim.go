package early

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shim waits for its orders, confines the process and becomes the program, or
// says on the control socket at which step it failed and exits with ExitShim. It
// runs on the main thread: the runtime keeps the main goroutine there until every
// init is done.
func shim() {
	step, err := become()
	msg := "cannot " + step + ": " + err.Error()
	if _, werr := syscall.Write(fdControl, []byte(msg)); werr != nil {
		os.Stderr.WriteString("solod: " + msg + "; this command is for solod's own use\n")
	}
	os.Exit(ExitShim)
}

// become returns only if a step failed. What comes after setresuid needs no
// privilege; what needs one comes before.
func become() (step string, err error) {
	// What is the same for every program is done before the orders come.
	if err := raiseOOMScore(); err != nil {
		return "reset the oom score", err
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return "leave the caller's keyring", err
	}
	syscall.Umask(0o077)
	spec, files, err := receive()
	if err != nil {
		return "read the sandbox's orders", err
	}
	argv, err := syscall.SlicePtrFromStrings(spec.Args)
	if err != nil {
		return "pass arguments", err
	}
	envv, err := syscall.SlicePtrFromStrings(spec.Env)
	if err != nil {
		return "pass an environment", err
	}
	for i, file := range []int{fileStdout, fileStderr} {
		if err := unix.Dup3(files[file], 1+i, 0); err != nil {
			return "pass the output", err
		}
	}
	for _, r := range spec.Rlimits {
		if err := setRlimit(r); err != nil {
			return "set resource limit " + strconv.Itoa(r.Resource), err
		}
	}
	if len(spec.Binds) > 0 {
		if step, err := bind(spec.Binds); err != nil {
			return step, err
		}
	}
	if err := os.Chdir(spec.Dir); err != nil {
		return "enter the working directory", err
	}
	for i := 0; i < spec.Groups; i++ {
		// A thread that writes 0 moves itself, which takes no lock of the whole
		// system as moving a process would; exec ends the other threads.
		if _, err := syscall.Write(files[fileFirstGroup+i], []byte("0")); err != nil {
			return "join cgroup " + strconv.Itoa(i), err
		}
	}
	if spec.UID >= 0 {
		if step, err := dropPrivileges(spec.UID); err != nil {
			return step, err
		}
	}
	// A change of uid clears it, so it comes after. It is sent when the thread
	// that forked us ends.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return "ask for a signal at the daemon's death", err
	}
	if orphaned() {
		return "start", errors.New("the daemon is gone")
	}
	if spec.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return "set no_new_privs", err
		}
	}
	resetSignals()
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return "close descriptors", err
	}
	// The last word of a shim: who ends without it has not come this far.
	if _, err := syscall.Write(fdControl, []byte{Ready}); err != nil {
		return "start", err
	}
	var errno syscall.Errno
	for range busyTries {
		_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(files[fileBinary]), uintptr(unsafe.Pointer(&[]byte{0}[0])),
			uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
		if errno != syscall.ETXTBSY {
			break
		}
		// Another child, between its fork and its exec, still holds the descriptor that
		// the binary was written by.
		time.Sleep(time.Millisecond)
	}
	return "execute the program", errno
}

// busyTries is how often a binary that is being written is tried, a millisecond
// apart.
const busyTries = 200

// receive waits for the orders: the spec, and the files that it is about. A shim
// whose daemon ends before there are any has nothing to tell anybody.
func receive() (*Spec, []int, error) {
	var head [8]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, files, err := receiveHead(head[:], oob)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		os.Exit(ExitShim)
	}
	if err := readFull(fdControl, head[n:]); err != nil {
		return nil, nil, err
	}
	size, err := strconv.ParseUint(string(head[:]), 16, 32)
	if err != nil || size > MaxSpec {
		return nil, nil, errors.New("bad length")
	}
	body := make([]byte, size)
	if err := readFull(fdControl, body); err != nil {
		return nil, nil, err
	}
	spec, err := Decode(body)
	if err != nil {
		return nil, nil, err
	}
	if len(files) != fileFirstGroup+spec.Groups {
		return nil, nil, errors.New("files are missing")
	}
	return spec, files, nil
}

func receiveHead(head, oob []byte) (n int, files []int, err error) {
	var oobn int
	for {
		n, oobn, _, _, err = syscall.Recvmsg(fdControl, head, oob, syscall.MSG_CMSG_CLOEXEC)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil || n == 0 {
		return n, nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return n, nil, err
		}
		files = append(files, fds...)
	}
	return n, files, nil
}

func readFull(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := syscall.Read(fd, p)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case n == 0:
			return errors.New("unexpected end")
		default:
			p = p[n:]
		}
	}
	return nil
}

// bind makes the mounts in a namespace of this thread's own, which exec keeps;
// they end with the program.
func bind(binds []Bind) (step string, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return "make a mount namespace", err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "make mounts private", err
	}
	for _, b := range binds {
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return "mount " + b.Target, err
		}
	}
	return "", nil
}

// raiseOOMScore undoes a protection that the daemon has and a tenant must not
// inherit. Raising the score needs no privilege.
func raiseOOMScore() error {
	const name = "/proc/self/oom_score_adj"
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || data[0] != '-' {
		return err
	}
	return os.WriteFile(name, []byte("0"), 0)
}

func setRlimit(r Rlimit) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(r.Resource, &have); err != nil {
		return err
	}
	max := min(r.Max, have.Max)
	return unix.Prlimit(0, r.Resource, &unix.Rlimit{Cur: max, Max: max}, nil)
}

// dropPrivileges changes this thread only: it is the one that exec keeps.
func dropPrivileges(uid int) (step string, err error) {
	for c := uintptr(0); c < 64; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break
		} else if err != nil {
			return "drop capability " + strconv.Itoa(int(c)), err
		}
	}
	id := uintptr(uid)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return "drop groups", errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, id, id, id); errno != 0 {
		return "change the group", errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, id, id, id); errno != 0 {
		return "change the user", errno
	}
	return "", nil
}

// orphaned reports whether the daemon's end of the control socket is closed. It
// keeps that open until the program runs.
func orphaned() bool {
	fds := []unix.PollFd{{Fd: fdControl, Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// resetSignals undoes what a caller of the daemon may have blocked or ignored:
// both survive exec.
func resetSignals() {
	var zero [4]uint64
	for sig := uintptr(1); sig <= 64; sig++ {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
	}
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
}
