//go:build !failpoint

package failpoint

// Hit does nothing in this build.
func Hit(string) {}

// NoSync is false in this build: every commit is brought to the disk.
const NoSync = false
