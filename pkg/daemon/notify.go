package daemon

import (
	"context"
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// readyPoll is how often the service manager's question is asked: is it ready?
const readyPoll = 20 * time.Millisecond

// tell sends a state to the service manager; without one it is nothing.
func (d *daemon) tell(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("the service manager cannot be told", "state", state, "error", err)
	}
}

// notify tells the service manager (systemd) when the daemon is ready and when it
// stops, and, where it asks for that, that the daemon lives: that a question goes
// through the engine to the disk and back, and not merely that a timer runs.
func (d *daemon) notify(ctx, running context.Context) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		d.log.Warn("the watchdog of the service manager is not understood", "error", err)
	}
	ready := time.NewTicker(readyPoll)
	defer ready.Stop()
	var watchdog <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every / 2)
		defer ticker.Stop()
		watchdog = ticker.C
	}
	stopping := running.Done()
	for {
		select {
		case <-ready.C:
			if d.engine.Ready() {
				ready.Stop()
				d.tell(systemd.SdNotifyReady + "\nSTATUS=serving")
			}
		case <-watchdog:
			if err := d.engine.Pulse(ctx); err != nil {
				d.log.Error("the engine does not answer the watchdog", "error", err)
				continue
			}
			d.tell(systemd.SdNotifyWatchdog)
		case <-stopping:
			stopping = nil
			d.tell(systemd.SdNotifyStopping)
		case <-ctx.Done():
			return
		}
	}
}

// reloading tells the service manager that a reload begins; what follows is READY.
func (d *daemon) reloading() {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	d.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/1000))
}
