package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

// The exit statuses.
const (
	statusDone        = 0
	statusFailed      = 1
	statusUsage       = 2
	statusRefused     = 3
	statusNotFound    = 4
	statusDenied      = 5
	statusTimedOut    = 6
	statusUnreachable = 7
)

// codeStatus is the exit status of each code.
var codeStatus = map[client.Code]int{
	client.CodeInvalidRequest:     statusUsage,
	client.CodeUnauthenticated:    statusDenied,
	client.CodePermissionDenied:   statusDenied,
	client.CodeNotFound:           statusNotFound,
	client.CodeTimeout:            statusTimedOut,
	client.CodeConflict:           statusFailed,
	client.CodeTooLarge:           statusRefused, // a source: the body of a call is bounded before it is sent
	client.CodeCompileFailed:      statusRefused,
	client.CodeTestsFailed:        statusRefused,
	client.CodePolicyViolation:    statusRefused,
	client.CodeStartFailed:        statusRefused,
	client.CodeRateLimited:        statusFailed,
	client.CodeQuotaExceeded:      statusFailed,
	client.CodeInternal:           statusFailed,
	client.CodeServiceError:       statusFailed,
	client.CodeStorageUnavailable: statusFailed,
	client.CodeOverloaded:         statusFailed,
	client.CodeCircuitOpen:        statusFailed,
	client.CodeShuttingDown:       statusFailed,
	client.CodeNotRunning:         statusFailed,
	client.CodeNotReady:           statusFailed,
	client.CodeUnavailable:        statusFailed,
	client.CodeDeadlineExceeded:   statusTimedOut,
}

// usageError is a command line that cannot be run.
type usageError struct {
	cause   error
	command string
}

func (e *usageError) Error() string { return e.cause.Error() }

// sourceError is a source that was refused: here, with diagnostics, or by the
// daemon, which cause then is. at turns places into those that the user can jump to.
type sourceError struct {
	message     string
	diagnostics []*solov1.Diagnostic
	at          *source
	service     string
	cause       error
}

func (e *sourceError) Error() string { return e.message }
func (e *sourceError) Unwrap() error { return e.cause }

// verdictError is an answer that came, and says no.
type verdictError string

func (e verdictError) Error() string { return string(e) }

// deniedError is what was refused here, before the daemon was asked.
type deniedError struct{ cause error }

func (e *deniedError) Error() string { return e.cause.Error() }
func (e *deniedError) Unwrap() error { return e.cause }

// exitStatus is the verdict on a command.
func exitStatus(err error) int {
	var usage *usageError
	var refused *client.Error
	var source *sourceError
	var denied *deniedError
	switch {
	case err == nil:
		return statusDone
	case errors.As(err, &denied):
		return statusDenied
	case errors.As(err, &usage):
		return statusUsage
	case errors.As(err, &refused):
		if status, ok := codeStatus[refused.Code]; ok {
			return status
		}
		return statusFailed
	case errors.As(err, &source):
		return statusRefused
	case errors.Is(err, context.DeadlineExceeded):
		return statusTimedOut
	case errors.Is(err, client.ErrUnreachable):
		return statusUnreachable
	}
	return statusFailed
}

// explain prints an error and what to do about it. This is the one place that
// does: no capital, no full stop, a hint where there is one.
func (a *app) explain(err error) {
	var usage *usageError
	var refused *client.Error
	var source *sourceError
	switch {
	case err == nil:
	case errors.As(err, &usage):
		a.say("%s", clean(err.Error()))
		a.hint("%s --help", usage.command)
	case errors.As(err, &source) && source.cause == nil:
		a.diagnostics(source.at, source.diagnostics, "")
		a.say("%s", clean(err.Error()))
	case errors.As(err, &refused):
		if source == nil {
			source = &sourceError{}
		}
		a.diagnostics(source.at, refused.Diagnostics(), "")
		a.say("%s", indent(refused.Message))
		a.details(source.at, refused)
		a.advise(source.service, refused)
	case errors.Is(err, context.Canceled):
		a.say("interrupted")
	case errors.Is(err, client.ErrUnreachable):
		a.say("%s", clean(err.Error()))
		a.hint("start solod, or say where it is with --addr or $SOLO_ADDR")
	case errors.Is(err, client.ErrProtocol):
		a.say("%s", clean(err.Error()))
		a.hint("is it solod that answers there? --addr and $SOLO_ADDR say where to ask")
	default:
		a.say("%s", clean(err.Error()))
	}
}

// details prints what a refusal holds beside its message.
func (a *app) details(at *source, e *client.Error) {
	if fields, ok := e.Details["fields"].([]any); ok && len(fields) > 1 {
		for _, f := range fields {
			if f, ok := f.(map[string]any); ok {
				fmt.Fprintf(a.err, "  %s: %s\n", clean(fmt.Sprint(f["field"])), clean(fmt.Sprint(f["message"])))
			}
		}
	}
	if p, ok := e.Details["panic"].(map[string]any); ok {
		d := &solov1.Diagnostic{Message: "panic: " + fmt.Sprint(p["message"])}
		if file, ok := p["file"].(string); ok {
			d.File = &file
		}
		if line, ok := p["line"].(float64); ok {
			n := int32(line)
			d.Line = &n
		}
		a.diagnostics(at, []*solov1.Diagnostic{d}, "")
	}
	exit := e.Exit()
	if exit == nil {
		return
	}
	fmt.Fprintf(a.err, "  exit: %s\n", exitWords(exit))
	for _, line := range exit.GetLogTail() {
		fmt.Fprintf(a.err, "  | %s\n", clean(line))
	}
}

// hints say what to do about a code.
var hints = map[client.Code]string{
	client.CodeUnauthenticated:  "show a valid capability with $SOLO_TOKEN, or call over the unix socket",
	client.CodePermissionDenied: "ask who granted the capability for this permission, or check --tenant",
	client.CodeNotFound:         "solo list shows what there is; --tenant says whose",
	client.CodeNotRunning:       "solo status says why; solo restart starts it",
	client.CodeNotReady:         "its own health check fails; solo logs may say why",
	client.CodeStartFailed:      "the old state, if any, is kept; mend the program and deploy again",
	client.CodeDeadlineExceeded: "allow more with --timeout-ms",
}

// advise prints what to do next. service is the one of a deploy, else "".
func (a *app) advise(service string, e *client.Error) {
	switch {
	case e.Code == client.CodeConflict && service != "":
		a.hint("to replace what runs: solo kill %s, then deploy again", service)
	case e.Code == client.CodeInternal && e.RequestID != "":
		a.hint("the daemon's log has the cause under the request id %s", clean(e.RequestID))
	case e.RetryAfter > 0:
		a.hint("try again in %v", e.RetryAfter)
	case hints[e.Code] != "":
		a.hint("%s", hints[e.Code])
	}
}

// diagnostics prints findings about a source as file:line:col: message.
func (a *app) diagnostics(at *source, list []*solov1.Diagnostic, kind string) {
	for _, d := range list {
		place := at.place(d)
		if place != "" {
			place += ": "
		}
		message := kind + d.GetMessage()
		if d.GetTest() != "" && !strings.Contains(message, d.GetTest()) {
			message = d.GetTest() + ": " + message
		}
		if d.GetRule() != "" {
			message += " [" + d.GetRule() + "]"
		}
		fmt.Fprintf(a.err, "%s%s\n", clean(place), indent(message))
		if out := strings.TrimRight(d.GetOutput(), "\n"); out != "" {
			fmt.Fprintf(a.err, "\t%s\n", indent(out))
		}
		if d.GetAdvice() != "" {
			fmt.Fprintf(a.err, "\t%s\n", indent(d.GetAdvice()))
		}
	}
}

// indent keeps the lines after the first from being taken for a place.
func indent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n\t")
}
