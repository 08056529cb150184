package scenario

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
	"github.com/solo-run/solo/test/harness"
)

// oldLog makes the log of a daemon that has run for long.
func oldLog(t *testing.T, path string, n int) {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	payload := map[string]any{"text": strings.Repeat("x", 2000)}
	for done := 0; done < n; done += 1000 {
		err := db.Update(func(tx *store.Tx) error {
			for range 1000 {
				if _, err := log.Append(tx, solo.Event{TenantID: "t", Type: "app.old", Subject: "services/old", Payload: payload}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A log that is over its size is cut, proved all the same, and its file shrinks;
// who follows it from before the cut is told.
func TestRetention(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-retention-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: append(os.Environ(), "SOLO_EVENTS__MAX_MB=1")}
	const n = 50_000
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	oldLog(t, filepath.Join(d.Dir, "events"), n)
	before, err := os.Stat(filepath.Join(d.Dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer d.Stop(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for name, addr := range map[string]string{"rest": "unix:" + filepath.Join(d.Dir, "solo.sock"), "grpc": "grpc+unix:" + filepath.Join(d.Dir, "solo-grpc.sock")} {
		t.Run(name, func(t *testing.T) {
			c, err := client.New(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// The compaction is the last thing that happens.
			for shrunk := false; !shrunk; time.Sleep(10 * time.Millisecond) {
				if ctx.Err() != nil {
					t.Fatal("the file does not shrink")
				}
				now, err := os.Stat(filepath.Join(d.Dir, "events"))
				if err != nil {
					t.Fatal(err)
				}
				shrunk = now.Size() < before.Size()/4
			}
			var gap *client.Gap
			var first uint64
			for e, err := range c.WatchEvents(ctx, &solov1.WatchRequest{SinceId: proto.Uint64(10)}) {
				if errors.As(err, &gap) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				first = e.GetId()
				break
			}
			if gap == nil || gap.FirstID != first || first < n/2 {
				t.Errorf("the gap is %v, the first event %d", gap, first)
			}
			if name == "grpc" {
				return
			}
			report, err := c.VerifyEvents(ctx)
			if err != nil || !report.GetOk() || report.GetFirstId() != first {
				t.Errorf("verify: %v, %v", report, err)
			}
			page, err := c.Events(ctx, &solov1.WatchRequest{EventType: "log_checkpoint"})
			if err != nil || len(page.GetEvents()) != 1 || page.GetEvents()[0].GetPayload().AsMap()["cut_before"] != float64(first) {
				t.Errorf("the checkpoint is %v, %v", page, err)
			}
		})
	}
	if err := d.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if report, err := eventlog.VerifyFile(ctx, filepath.Join(d.Dir, "events")); err != nil || !report.OK || report.FirstID < n/2 {
		t.Errorf("verify of the file: %+v, %v", report, err)
	}
}
