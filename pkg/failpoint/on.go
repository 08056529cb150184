//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// NoSync has the stores leave out their fsyncs, where $SOLO_FAILPOINT_NOSYNC is set:
// the tests of power cuts must see what that loses.
var NoSync = os.Getenv("SOLO_FAILPOINT_NOSYNC") != ""

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
