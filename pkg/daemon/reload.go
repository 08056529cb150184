package daemon

import (
	"context"
	"reflect"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/solo-run/solo/pkg/solo"
)

// live are the keys that can change while the daemon runs; they hold for what
// comes after.
var live = map[string]bool{
	"solo.log_level": true, "solo.max_tenants": true, "telemetry.log_events": true,
	"events.keep_days": true, "events.max_mb": true,
	"limits.max_per_tenant": true, "limits.max_total": true,
	"limits.inflight_per_tenant": true, "limits.inflight_total": true,
	"limits.memory_mb": true, "limits.cpu_percent": true, "limits.pids": true, "limits.log_mb": true,
	"limits.ceiling_memory_mb": true, "limits.ceiling_cpu_percent": true, "limits.ceiling_pids": true, "limits.ceiling_log_mb": true,
}

// reloads reads the configuration again each time it is asked to.
func (d *daemon) reloads(ctx context.Context, opts Options) {
	for {
		select {
		case <-opts.Reload:
			d.reloading()
			d.reload(opts.Load)
			d.tell(systemd.SdNotifyReady)
		case <-ctx.Done():
			return
		}
	}
}

// reload takes over what can change live, or, where something else has changed,
// nothing: a configuration holds as a whole.
func (d *daemon) reload(load func() (*Config, error)) {
	next, err := load()
	if err != nil {
		d.log.Error("the configuration is not reloaded; the old one holds", "error", err)
		return
	}
	changed, refused := d.cfg.changes(next)
	payload := map[string]any{"changed": changed, "refused": refused}
	switch {
	case len(refused) > 0:
		d.log.Error("the configuration is not reloaded: a restart is needed for "+strings.Join(refused, ", ")+"; the old one holds", "changed", changed)
		payload["changed"] = []string{}
	case len(changed) == 0:
		d.log.Info("the configuration is reloaded: nothing has changed")
	default:
		d.log.SetLevel(hclog.LevelFromString(next.Solo.LogLevel))
		d.logging.Store(next.Telemetry.LogEvents)
		d.engine.SetBounds(next.bounds())
		d.retention.Store(next.retention())
		d.cfg = next
		d.log.Info("the configuration is reloaded", "changed", changed)
	}
	if err := d.record(solo.Event{Type: solo.EventConfigReloaded, Subject: solo.SubjectSystem, Payload: payload}); err != nil {
		d.log.Error("the reload cannot be recorded", "error", err)
	}
}

// changes are the keys whose values differ: those that may change live, and those
// that may not.
func (c *Config) changes(next *Config) (changed, refused []string) {
	changed, refused = []string{}, []string{}
	then := next.settings()
	for i, s := range c.settings() {
		if reflect.DeepEqual(s.value, then[i].value) {
			continue
		}
		if live[s.key] {
			changed = append(changed, s.key)
		} else {
			refused = append(refused, s.key)
		}
	}
	return changed, refused
}
