package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
)

// VerifyData proves the event log of a data directory that no daemon has open.
func VerifyData(ctx context.Context, dir string) (*solo.VerifyReport, error) {
	path := filepath.Join(dir, "events")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("cannot verify %s: %w", dir, err)
	}
	report, err := eventlog.VerifyFile(ctx, path)
	if err != nil {
		return nil, err
	}
	return &report, nil
}
