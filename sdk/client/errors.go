package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Code classifies an [Error]. The set is closed.
type Code string

// The codes.
const (
	CodeInvalidRequest     Code = "invalid_request"
	CodeUnauthenticated    Code = "unauthenticated"
	CodePermissionDenied   Code = "permission_denied"
	CodeNotFound           Code = "not_found"
	CodeTimeout            Code = "timeout"
	CodeConflict           Code = "conflict"
	CodeTooLarge           Code = "too_large"
	CodeCompileFailed      Code = "compile_failed"
	CodeTestsFailed        Code = "tests_failed"
	CodePolicyViolation    Code = "policy_violation"
	CodeStartFailed        Code = "start_failed"
	CodeRateLimited        Code = "rate_limited"
	CodeQuotaExceeded      Code = "quota_exceeded"
	CodeInternal           Code = "internal"
	CodeServiceError       Code = "service_error"
	CodeStorageUnavailable Code = "storage_unavailable"
	CodeOverloaded         Code = "overloaded"
	CodeCircuitOpen        Code = "circuit_open"
	CodeShuttingDown       Code = "shutting_down"
	CodeNotRunning         Code = "not_running"
	CodeNotReady           Code = "not_ready"
	CodeUnavailable        Code = "unavailable"
	CodeDeadlineExceeded   Code = "deadline_exceeded"
)

// Codes returns every code.
func Codes() []Code {
	return []Code{
		CodeInvalidRequest, CodeUnauthenticated, CodePermissionDenied, CodeNotFound, CodeTimeout,
		CodeConflict, CodeTooLarge, CodeCompileFailed, CodeTestsFailed, CodePolicyViolation,
		CodeStartFailed, CodeRateLimited, CodeQuotaExceeded, CodeInternal, CodeServiceError,
		CodeStorageUnavailable, CodeOverloaded, CodeCircuitOpen, CodeShuttingDown, CodeNotRunning,
		CodeNotReady, CodeUnavailable, CodeDeadlineExceeded,
	}
}

// ErrUnreachable is in the chain of an error where no answer came: no
// connection, or one that broke. The call may have been made all the same.
var ErrUnreachable = errors.New("the daemon cannot be reached")

// ErrProtocol is in the chain of an error where an answer came that Solo does
// not give: another server, or one over its bound.
var ErrProtocol = errors.New("the answer is not one of Solo's")

// Error is a refusal as the daemon made it, or one that the client made in its
// place before it sent anything; then Status is 0.
type Error struct {
	Code    Code
	Message string
	// Details is an object of the contract; never nil.
	Details map[string]any
	// RetryAfter is when to try again; 0 where that is not known.
	RetryAfter time.Duration
	// Status is the HTTP status.
	Status int
	// RequestID names the call in the daemon's log.
	RequestID string

	details json.RawMessage
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Diagnostics returns what the refusal holds against a source: diagnostics of
// the compiler and the tests, then findings of the policy.
func (e *Error) Diagnostics() []*solov1.Diagnostic {
	var raw struct {
		Diagnostics []json.RawMessage `json:"diagnostics"`
		Findings    []json.RawMessage `json:"findings"`
	}
	if json.Unmarshal(e.details, &raw) != nil {
		return nil
	}
	var out []*solov1.Diagnostic
	for _, d := range append(raw.Diagnostics, raw.Findings...) {
		m := new(solov1.Diagnostic)
		if decode(d, m) == nil {
			out = append(out, m)
		}
	}
	return out
}

// Exit returns how the process ended that the refusal is about, nil where it is
// about none.
func (e *Error) Exit() *solov1.Exit {
	var raw struct {
		Exit json.RawMessage `json:"exit"`
	}
	if json.Unmarshal(e.details, &raw) != nil || len(raw.Exit) == 0 || string(raw.Exit) == "null" {
		return nil
	}
	m := new(solov1.Exit)
	if decode(raw.Exit, m) != nil {
		return nil
	}
	return m
}

// refuse makes the error of a request that must not be sent.
func refuse(format string, args ...any) *Error {
	return &Error{Code: CodeInvalidRequest, Message: fmt.Sprintf(format, args...), Details: map[string]any{}}
}

// Gap is yielded by a stream where retention has cut records away: FirstID is
// the first that remains, and comes next. It is the one error after which a
// stream goes on.
type Gap struct{ FirstID uint64 }

// Error says what remains.
func (g *Gap) Error() string {
	return fmt.Sprintf("records before %d are gone: retention has cut them away", g.FirstID)
}

func decode(data []byte, m proto.Message) error { return unmarshal.Unmarshal(data, m) }
