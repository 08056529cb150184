//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	at   string
	left atomic.Int64
)

func init() {
	name, count, _ := strings.Cut(os.Getenv("SOLO_FAILPOINT"), ":")
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		n = 1
	}
	at = name
	left.Store(int64(n))
}

// Hit kills the process where it was told to.
func Hit(name string) {
	if name == at && left.Add(-1) == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
