package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// The addresses of gRPC.
const (
	schemeGRPC     = "grpc://"
	schemeGRPCS    = "grpcs://"
	schemeGRPCUnix = "grpc+unix:"
)

func isGRPC(addr string) bool {
	return strings.HasPrefix(addr, schemeGRPC) || strings.HasPrefix(addr, schemeGRPCS) || strings.HasPrefix(addr, schemeGRPCUnix)
}

// grpcTransport speaks solo.v1 over gRPC.
type grpcTransport struct {
	conn *rpc.ClientConn
	conf config
}

func newGRPC(addr string, conf config) (*grpcTransport, error) {
	creds := insecure.NewCredentials()
	target := ""
	switch {
	case strings.HasPrefix(addr, schemeGRPCUnix):
		target = "unix:" + strings.TrimPrefix(addr, schemeGRPCUnix)
	case strings.HasPrefix(addr, schemeGRPCS):
		target = "passthrough:///" + strings.TrimPrefix(addr, schemeGRPCS)
		creds = credentials.NewTLS(conf.tls)
	default:
		target = "passthrough:///" + strings.TrimPrefix(addr, schemeGRPC)
	}
	conn, err := rpc.NewClient(target, rpc.WithTransportCredentials(creds), rpc.WithDefaultCallOptions(rpc.MaxCallRecvMsgSize(maxPage)))
	if err != nil {
		return nil, fmt.Errorf("cannot use the address %q: %w", addr, err)
	}
	return &grpcTransport{conn, conf}, nil
}

func (t *grpcTransport) close() { t.conn.Close() }

// outgoing adds what is shown with each call.
func (t *grpcTransport) outgoing(ctx context.Context) context.Context {
	if t.conf.tenant != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-tenant-id", t.conf.tenant)
	}
	if t.conf.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+t.conf.token)
	}
	return ctx
}

const service = "/solo.v1.Solo/"

func (t *grpcTransport) unary(ctx context.Context, method string, in, out proto.Message) error {
	if t.conf.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.conf.timeout)
		defer cancel()
	}
	var err error
	switch page := out.(type) {
	case *solov1.EventPage:
		err = t.eventPage(ctx, in.(*solov1.WatchRequest), page)
	case *solov1.LogPage:
		err = t.logPage(ctx, in.(*solov1.LogsRequest), page)
	case *solov1.VerifyReport:
		return refuse("gRPC does not offer this call: use an address of http or unix")
	default:
		err = t.conn.Invoke(t.outgoing(ctx), service+method, in, out)
	}
	if err != nil {
		return fromStatus(ctx, err)
	}
	if _, reply := out.(*solov1.InvokeReply); !reply {
		return t.tap(out)
	}
	return nil
}

// tap shows an answer in the JSON of the contract's names.
func (t *grpcTransport) tap(m proto.Message) error {
	if t.conf.tap == nil {
		return nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	t.conf.tap(json.RawMessage(text))
	return nil
}

func (t *grpcTransport) open(ctx context.Context, method string, in proto.Message) (rpc.ClientStream, error) {
	st, err := t.conn.NewStream(t.outgoing(ctx), &rpc.StreamDesc{ServerStreams: true}, service+method)
	if err != nil {
		return nil, err
	}
	if err := st.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return st, st.CloseSend()
}

// eventPage reads the stream that stops at the end.
func (t *grpcTransport) eventPage(ctx context.Context, in *solov1.WatchRequest, page *solov1.EventPage) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in = proto.CloneOf(in)
	in.StopAtEnd = true
	st, err := t.open(ctx, methodWatch, in)
	if err != nil {
		return err
	}
	page.NextSinceId = in.GetSinceId()
	for {
		e := new(solov1.Event)
		if err := st.RecvMsg(e); errors.Is(err, io.EOF) {
			page.LastId = page.NextSinceId
			return nil
		} else if err != nil {
			return err
		}
		page.Events, page.NextSinceId = append(page.Events, e), e.GetId()
	}
}

func (t *grpcTransport) logPage(ctx context.Context, in *solov1.LogsRequest, page *solov1.LogPage) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in = proto.CloneOf(in)
	in.Follow = false
	st, err := t.open(ctx, methodLogs, in)
	if err != nil {
		return err
	}
	page.NextSinceId = in.GetSinceId()
	for {
		l := new(solov1.LogLine)
		if err := st.RecvMsg(l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		page.Logs, page.NextSinceId = append(page.Logs, l), l.GetId()
	}
}

// watch follows a stream, and resumes it behind the last record where it is cut.
func (t *grpcTransport) watch(ctx context.Context, method string, in proto.Message, record func() proto.Message) iter.Seq2[proto.Message, error] {
	return func(yield func(proto.Message, error) bool) {
		in, err := t.begin(ctx, in)
		if err != nil {
			yield(nil, err)
			return
		}
		wait := time.Duration(0)
		for first := true; ; first = false {
			moved, err := t.follow(ctx, method, in, record, yield)
			switch {
			case errors.Is(err, errStopped):
				return
			case ctx.Err() != nil:
				yield(nil, ctx.Err())
				return
			}
			if errors.Is(err, io.EOF) {
				err = errCut
			}
			err = fromStatus(ctx, err)
			if moved {
				wait, first = 0, false
			}
			if first && !errors.Is(err, errCut) || !resumable(err) {
				yield(nil, err)
				return
			}
			if wait = nextWait(wait, err); !sleep(ctx, t.conf.reconnect, wait, err) {
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

// begin makes "from now on" an id, so that a stream that is cut before its first
// record goes on from there.
func (t *grpcTransport) begin(ctx context.Context, in proto.Message) (proto.Message, error) {
	switch q := in.(type) {
	case *solov1.WatchRequest:
		q = proto.CloneOf(q)
		q.Limit, q.StopAtEnd = 0, false
		if q.SinceId == nil {
			h := new(solov1.Health)
			if err := t.conn.Invoke(t.outgoing(ctx), service+methodHealth, &solov1.DaemonHealthRequest{}, h); err != nil {
				return nil, fromStatus(ctx, err)
			}
			q.SinceId = proto.Uint64(h.GetEvents().GetLastId())
		}
		return q, nil
	case *solov1.LogsRequest:
		if q.GetUntil() != nil {
			return nil, refuse("until must be absent: a stream has no end")
		}
		q = proto.CloneOf(q)
		if q.SinceId == nil && q.GetSince() == nil {
			page, newest := new(solov1.LogPage), proto.CloneOf(q)
			newest.Limit, newest.Tail = 1, true
			if err := t.logPage(ctx, newest, page); err != nil {
				return nil, fromStatus(ctx, err)
			}
			q.SinceId = proto.Uint64(page.GetNextSinceId())
		}
		q.Limit, q.Tail, q.Follow = 0, false, true
		return q, nil
	}
	return in, nil
}

// follow reads one connection to its end and keeps the cursor in in.
func (t *grpcTransport) follow(ctx context.Context, method string, in proto.Message, record func() proto.Message, yield func(proto.Message, error) bool) (moved bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := t.open(ctx, method, in)
	if err != nil {
		return false, err
	}
	for {
		m := record()
		if err := st.RecvMsg(m); err != nil {
			return moved, err
		}
		moved = true
		switch r := m.(type) {
		case *solov1.Event:
			if r.GetId() == 0 && r.GetEventType() == "gap" {
				first := uint64(r.GetPayload().GetFields()["first_id"].GetNumberValue())
				in.(*solov1.WatchRequest).SinceId = proto.Uint64(max(first, 1) - 1)
				if !yield(nil, &Gap{FirstID: first}) {
					return moved, errStopped
				}
				continue
			}
			in.(*solov1.WatchRequest).SinceId = proto.Uint64(r.GetId())
		case *solov1.LogLine:
			in.(*solov1.LogsRequest).SinceId = proto.Uint64(r.GetId())
		}
		if err := t.tap(m); err != nil {
			return moved, err
		}
		if !yield(m, nil) {
			return moved, errStopped
		}
	}
}

// fromStatus makes the error that the daemon made.
func fromStatus(ctx context.Context, err error) error {
	var own *Error
	if errors.As(err, &own) || errors.Is(err, errCut) || errors.Is(err, ErrProtocol) || errors.Is(err, ErrUnreachable) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Message: st.Message(), Details: map[string]any{}}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Code = Code(d.GetReason())
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		case *structpb.Struct:
			e.Details = d.AsMap()
			if text, err := json.Marshal(e.Details); err == nil {
				e.details = text
			}
		}
	}
	switch {
	case e.Code != "":
		return e
	case ctx.Err() != nil:
		return ctx.Err()
	case st.Code() == codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case st.Code() == codes.Canceled:
		return context.Canceled
	case st.Code() == codes.Unavailable:
		return fmt.Errorf("%w: %s", ErrUnreachable, st.Message())
	case st.Code() == codes.ResourceExhausted:
		e.Code = CodeTooLarge
		return e
	}
	return fmt.Errorf("%w: %s", ErrProtocol, st.Message())
}
