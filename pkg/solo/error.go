package solo

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Code classifies an [Error]. The set is closed: each wire maps all of it, and
// a test holds each map against [Codes].
type Code string

// The codes, each with what the caller did or met.
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

var codes = []Code{
	CodeInvalidRequest, CodeUnauthenticated, CodePermissionDenied, CodeNotFound, CodeTimeout,
	CodeConflict, CodeTooLarge, CodeCompileFailed, CodeTestsFailed, CodePolicyViolation,
	CodeStartFailed, CodeRateLimited, CodeQuotaExceeded, CodeInternal, CodeServiceError,
	CodeStorageUnavailable, CodeOverloaded, CodeCircuitOpen, CodeShuttingDown, CodeNotRunning,
	CodeNotReady, CodeUnavailable, CodeDeadlineExceeded,
}

// Codes returns every code, in the order of the contract's table.
func Codes() []Code { return append([]Code(nil), codes...) }

// Known reports whether c is one of [Codes].
func (c Code) Known() bool {
	for _, k := range codes {
		if k == c {
			return true
		}
	}
	return false
}

// Error is the one error that crosses a wire. Message and Details reach the
// caller; the cause is for the daemon's log only and is never sent.
type Error struct {
	Code    Code
	Message string
	// Details is an object of the contract (section 4); nil is sent as {}.
	Details map[string]any
	// RetryAfter is sent where it is known; zero is unknown.
	RetryAfter time.Duration

	cause error
}

// Errorf makes an Error with the given code. A %w in the format keeps its
// operand as the cause, and its text is part of the message: wrap only what the
// caller may read. Use [Internal] for the rest.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Internal hides cause behind a message that says nothing of the inside.
func Internal(cause error) *Error {
	return &Error{Code: CodeInternal, Message: "internal error; the daemon's log has the cause under this request id", cause: cause}
}

// With returns a copy of e with one more detail.
func (e *Error) With(key string, value any) *Error {
	out := *e
	out.Details = make(map[string]any, len(e.Details)+1)
	for k, v := range e.Details {
		out.Details[k] = v
	}
	out.Details[key] = value
	return &out
}

// Retry returns a copy of e that tells when to try again.
func (e *Error) Retry(after time.Duration) *Error {
	out := *e
	out.RetryAfter = after
	return &out
}

// Because returns a copy of e with a cause for the daemon's own log.
func (e *Error) Because(cause error) *Error {
	out := *e
	out.cause = cause
	return &out
}

// Error returns the message; with a hidden cause, the cause follows, so never
// send this text: send Message.
func (e *Error) Error() string {
	if e.cause != nil && e.Code == CodeInternal {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// StorageError is the refusal of what a disk did not take, with the reason where
// the user can do something about it.
func StorageError(what string, err error) *Error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		what += ": the disk is full"
	case errors.Is(err, syscall.EROFS):
		what += ": the disk is read-only"
	case errors.Is(err, syscall.EIO):
		what += ": the disk fails"
	}
	return Errorf(CodeStorageUnavailable, "%s", what).Because(err)
}

// AsError returns err as an *Error. What is not one becomes [Internal].
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Internal(err)
}

// CodeOf returns the code of err: "" for nil, internal for what is not an [Error].
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}

// Field names one field of a request that was refused, in details.fields.
type Field struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// InvalidFields is the refusal of a body, with each field at fault.
func InvalidFields(fields ...Field) *Error {
	msg := "the request is not valid"
	if len(fields) > 0 {
		msg = fields[0].Message
		if fields[0].Field != "" {
			msg = fields[0].Field + ": " + msg
		}
		if n := len(fields) - 1; n > 0 {
			msg = fmt.Sprintf("%s (and %d more)", msg, n)
		}
	}
	return Errorf(CodeInvalidRequest, "%s", msg).With("fields", fields)
}
