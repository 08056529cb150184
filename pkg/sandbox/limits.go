package sandbox

import (
	"math"
	"runtime"
)

// cpuPeriod is the kernel's accounting period in microseconds.
const cpuPeriod = 100_000

// cpuQuota is how much of a period, in microseconds, a share of cores may use;
// the kernel refuses less than one millisecond.
func cpuQuota(percent int) int64 {
	return max(int64(percent)*cpuPeriod/100, 1000)
}

// GoMaxProcs is GOMAXPROCS for a program that may use this share of cores: enough
// to use it, not more than the host has, at least 1. A percentage of 0 is no limit.
func GoMaxProcs(cpuPercent int) int {
	host := runtime.NumCPU()
	if cpuPercent <= 0 {
		return host
	}
	return max(1, min(host, (cpuPercent+99)/100))
}

// GoMemLimit is GOMEMLIMIT, in bytes, for a program that may use this much memory:
// 80 % of it, so that the collector works harder before the kernel kills. 0 or
// less is no limit.
func GoMemLimit(memoryBytes int64) int64 {
	if memoryBytes <= 0 {
		return math.MaxInt64
	}
	return memoryBytes / 5 * 4
}
