package grpc

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/solo-run/solo/pkg/solo"
)

// domain is that of every ErrorInfo.
const domain = "solo"

// canonical is the one table of codes and statuses (contract 5).
var canonical = map[solo.Code]codes.Code{
	solo.CodeInvalidRequest:     codes.InvalidArgument,
	solo.CodeUnauthenticated:    codes.Unauthenticated,
	solo.CodePermissionDenied:   codes.PermissionDenied,
	solo.CodeNotFound:           codes.NotFound,
	solo.CodeTimeout:            codes.DeadlineExceeded,
	solo.CodeConflict:           codes.Aborted,
	solo.CodeTooLarge:           codes.ResourceExhausted,
	solo.CodeCompileFailed:      codes.InvalidArgument,
	solo.CodeTestsFailed:        codes.InvalidArgument,
	solo.CodePolicyViolation:    codes.InvalidArgument,
	solo.CodeStartFailed:        codes.FailedPrecondition,
	solo.CodeRateLimited:        codes.ResourceExhausted,
	solo.CodeQuotaExceeded:      codes.ResourceExhausted,
	solo.CodeInternal:           codes.Internal,
	solo.CodeServiceError:       codes.Unknown,
	solo.CodeStorageUnavailable: codes.Unavailable,
	solo.CodeOverloaded:         codes.Unavailable,
	solo.CodeCircuitOpen:        codes.Unavailable,
	solo.CodeShuttingDown:       codes.Unavailable,
	solo.CodeNotRunning:         codes.Unavailable,
	solo.CodeNotReady:           codes.Unavailable,
	solo.CodeUnavailable:        codes.Unavailable,
	solo.CodeDeadlineExceeded:   codes.DeadlineExceeded,
}

func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return ok
}

// statusOf is an error as a caller gets it. A status stays what it is.
func statusOf(err error) error {
	if isStatus(err) {
		return err
	}
	var coded *solo.Error
	if !errors.As(err, &coded) && errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	e := solo.AsError(err)
	code, ok := canonical[e.Code]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, e.Message)
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: string(e.Code), Domain: domain})}
	if fields, ok := e.Details["fields"].([]solo.Field); ok {
		bad := &errdetails.BadRequest{}
		for _, f := range fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Message})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	if e.RetryAfter > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)}))
	}
	if s := object(e.Details); s != nil {
		details = append(details, protoadapt.MessageV1Of(s))
	}
	with, err := st.WithDetails(details...)
	if err != nil {
		return st.Err()
	}
	return with.Err()
}

// object is details as a message, nil for none.
func object(details map[string]any) *structpb.Struct {
	if len(details) == 0 {
		return nil
	}
	text, err := json.Marshal(details)
	if err != nil {
		return nil
	}
	var plain map[string]any
	if json.Unmarshal(text, &plain) != nil {
		return nil
	}
	s, err := structpb.NewStruct(plain)
	if err != nil {
		return nil
	}
	return s
}
