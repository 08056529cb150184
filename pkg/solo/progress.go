package solo

import "context"

// Stage is how far a deploy or a check has come, in words for its caller.
type Stage string

// The stages, in the order in which they can come; a build that is cached has none
// before the start.
const (
	StageQueued    Stage = "waiting for the compiler"
	StageCompiling Stage = "compiling"
	StageTesting   Stage = "compiling and testing"
	StageVetting   Stage = "vetting"
	StageStarting  Stage = "starting"
)

type progressKey struct{}

// WithProgress has report called, by any goroutine, as the work under ctx comes to
// each stage. A build that many wait for tells the first of them only.
func WithProgress(ctx context.Context, report func(Stage)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// Reached tells whoever wants to know that the work under ctx has come to a stage.
func Reached(ctx context.Context, stage Stage) {
	if report, ok := ctx.Value(progressKey{}).(func(Stage)); ok {
		report(stage)
	}
}
