package process

import (
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// curve keeps the last samples of what an instance uses.
type curve struct {
	mu   sync.Mutex
	last []solo.UsageSample
}

const (
	// curveSamples is how many are kept.
	curveSamples = 60
	// curvePause is the least time between two: samples are taken with the health
	// checks, and a thousand services must not keep a core busy with them.
	curvePause = 10 * time.Second
	// curveYoung is how long an instance is looked at more often, each curveStart.
	curveYoung, curveStart = 30 * time.Second, time.Second
)

// sample takes one, if the last is old enough.
func (i *Instance) sample() {
	now := time.Now().UTC()
	pause := curvePause
	switch age := now.Sub(i.at); {
	case age < curveStart:
		return
	case age < curveYoung:
		pause = curveStart
	}
	i.curve.mu.Lock()
	defer i.curve.mu.Unlock()
	if n := len(i.curve.last); n > 0 && now.Sub(i.curve.last[n-1].At) < pause {
		return
	}
	u, err := i.proc.Sample()
	if err != nil {
		return
	}
	if len(i.curve.last) == curveSamples {
		i.curve.last = append(i.curve.last[:0], i.curve.last[1:]...)
	}
	i.curve.last = append(i.curve.last, solo.UsageSample{At: now, MemoryBytes: u.MemoryBytes, CPUUsec: u.CPUUsec, PIDs: u.PIDs})
}

func (c *curve) samples() []solo.UsageSample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]solo.UsageSample{}, c.last...)
}
