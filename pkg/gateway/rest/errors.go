package rest

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/solo-run/solo/pkg/solo"
)

// statuses is the one table of codes and HTTP (contract 4). A few invalid requests
// have a status of their own: see statusError.
var statuses = map[solo.Code]int{
	solo.CodeInvalidRequest:     http.StatusBadRequest,
	solo.CodeUnauthenticated:    http.StatusUnauthorized,
	solo.CodePermissionDenied:   http.StatusForbidden,
	solo.CodeNotFound:           http.StatusNotFound,
	solo.CodeTimeout:            http.StatusRequestTimeout,
	solo.CodeConflict:           http.StatusConflict,
	solo.CodeTooLarge:           http.StatusRequestEntityTooLarge,
	solo.CodeCompileFailed:      http.StatusUnprocessableEntity,
	solo.CodeTestsFailed:        http.StatusUnprocessableEntity,
	solo.CodePolicyViolation:    http.StatusUnprocessableEntity,
	solo.CodeStartFailed:        http.StatusUnprocessableEntity,
	solo.CodeRateLimited:        http.StatusTooManyRequests,
	solo.CodeQuotaExceeded:      http.StatusTooManyRequests,
	solo.CodeInternal:           http.StatusInternalServerError,
	solo.CodeServiceError:       http.StatusBadGateway,
	solo.CodeStorageUnavailable: http.StatusServiceUnavailable,
	solo.CodeOverloaded:         http.StatusServiceUnavailable,
	solo.CodeCircuitOpen:        http.StatusServiceUnavailable,
	solo.CodeShuttingDown:       http.StatusServiceUnavailable,
	solo.CodeNotRunning:         http.StatusServiceUnavailable,
	solo.CodeNotReady:           http.StatusServiceUnavailable,
	solo.CodeUnavailable:        http.StatusServiceUnavailable,
	solo.CodeDeadlineExceeded:   http.StatusGatewayTimeout,
}

// statusError is an invalid request with a status of its own: 405, 406 or 415.
type statusError struct {
	inner  *solo.Error
	status int
}

func (e *statusError) Error() string { return e.inner.Error() }
func (e *statusError) Unwrap() error { return e.inner }

func withStatus(status int, message string) error {
	return &statusError{inner: solo.Errorf(solo.CodeInvalidRequest, "%s", message), status: status}
}

// routeError turns echo's own errors into ours.
func routeError(err error, c echo.Context) error {
	var he *echo.HTTPError
	if !errors.As(err, &he) {
		return err
	}
	switch he.Code {
	case http.StatusNotFound:
		return solo.Errorf(solo.CodeNotFound, "there is no such path")
	case http.StatusMethodNotAllowed:
		return withStatus(http.StatusMethodNotAllowed, "the path does not take "+c.Request().Method)
	}
	return err
}

// errorBody is the envelope of every error.
type errorBody struct {
	Error     solo.Code      `json:"error"`
	Message   string         `json:"message"`
	Timestamp time.Time      `json:"timestamp"`
	Details   map[string]any `json:"details"`
}

// statusOf is the status of an error; e is err as one of ours.
func statusOf(err error, e *solo.Error) int {
	var own *statusError
	if errors.As(err, &own) {
		return own.status
	}
	if status, ok := statuses[e.Code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// bodyOf is an error as its caller reads it.
func bodyOf(e *solo.Error) errorBody {
	details := e.Details
	if details == nil {
		details = map[string]any{}
	}
	return errorBody{Error: e.Code, Message: e.Message, Timestamp: time.Now().UTC(), Details: details}
}

// fail answers with an error.
func (s *Server) fail(c *call, err error) {
	e := solo.AsError(err)
	status := statusOf(err, e)
	c.code = e.Code
	id := c.requestID()
	if cause := errors.Unwrap(e); cause != nil || status == http.StatusInternalServerError {
		s.cfg.Log.Error("a request failed", "request_id", id, "route", c.Path(), "code", string(e.Code), "message", e.Message, "cause", cause)
	}
	if c.Response().Committed {
		return
	}
	// What the client still sends is read away, so that it comes to read this.
	c.drain()
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	retry := e.RetryAfter
	if e.Code == solo.CodeShuttingDown && retry <= 0 {
		retry = time.Second
	}
	if retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(max(retry.Seconds(), 1))), 10))
	}
	c.JSON(status, bodyOf(e))
}
