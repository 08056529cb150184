package grpc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

var unmarshal = protojson.UnmarshalOptions{DiscardUnknown: true}

// fill makes a message of an answer, whose JSON is its definition.
func fill[M proto.Message](m M, v any, err error) (M, error) {
	var none M
	if err != nil {
		return none, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return none, solo.Internal(err)
	}
	if err := unmarshal.Unmarshal(text, m); err != nil {
		return none, solo.Internal(err)
	}
	return m, nil
}

// checkID refuses a name that is none.
func checkID(field, id string) error {
	if err := solo.CheckID(id); err != nil {
		return solo.InvalidFields(solo.Field{Field: field, Message: err.Error()})
	}
	return nil
}

// deployRequest is a message as the engine takes it.
func deployRequest(m *solov1.DeployRequest) (*solo.DeployRequest, error) {
	req := &solo.DeployRequest{
		TenantID: m.TenantId, ServiceID: m.ServiceId, Format: m.Format, Name: m.Name, Env: m.Env, Metadata: m.Metadata,
		Restart: (*solo.RestartType)(m.Restart), StopTimeoutMS: number(m.StopTimeoutMs),
	}
	if m.Code != nil {
		if !utf8.Valid(m.Code) {
			return nil, solo.InvalidFields(solo.Field{Field: "code", Message: "is not UTF-8"})
		}
		code := string(m.Code)
		req.Code = &code
	}
	if len(m.Files) > 0 {
		req.Files = make(map[string]string, len(m.Files))
		for name, text := range m.Files {
			if !utf8.Valid(text) {
				return nil, solo.InvalidFields(solo.Field{Field: "files", Message: fmt.Sprintf("%.200q is not UTF-8", name)})
			}
			req.Files[name] = string(text)
		}
	}
	if r := m.RestartLimits; r != nil {
		req.RestartLimits = &solo.RestartLimitsRequest{MaxRestarts: number(r.MaxRestarts), MaxSeconds: number(r.MaxSeconds)}
	}
	if b := m.Backoff; b != nil {
		req.Backoff = &solo.BackoffRequest{
			InitialMS: number(b.InitialMs), Factor: b.Factor, MaxMS: number(b.MaxMs), Jitter: b.Jitter, ResetAfterMS: number(b.ResetAfterMs),
		}
	}
	if h := m.Health; h != nil {
		req.Health = &solo.HealthRequest{
			StartTimeoutMS: number(h.StartTimeoutMs), IntervalMS: number(h.IntervalMs), TimeoutMS: number(h.TimeoutMs), Failures: number(h.Failures),
		}
	}
	req.Secrets = m.Secrets
	for _, g := range m.Grants {
		line := solo.Grant{Resource: g.GetResource()}
		for _, p := range g.GetPermissions() {
			line.Permissions = append(line.Permissions, solo.Permission(p))
		}
		req.Grants = append(req.Grants, line)
	}
	if l := m.Limits; l != nil {
		req.Limits = &solo.LimitsRequest{
			MemoryMB: number(l.MemoryMb), CPUPercent: number(l.CpuPercent), PIDs: number(l.Pids),
			DataMB: number(l.DataMb), LogMB: number(l.LogMb), KVMB: number(l.KvMb),
		}
	}
	return req, nil
}

func number(n *int32) *int {
	if n == nil {
		return nil
	}
	v := int(*n)
	return &v
}

// Deploy answers once the service serves.
func (s *Server) Deploy(ctx context.Context, m *solov1.DeployRequest) (*solov1.Service, error) {
	req, err := deployRequest(m)
	if err != nil {
		return nil, err
	}
	v, _, err := s.cfg.Engine.Deploy(ctx, caller(ctx), req)
	return fill(&solov1.Service{}, v, err)
}

// Check changes nothing.
func (s *Server) Check(ctx context.Context, m *solov1.DeployRequest) (*solov1.CheckResult, error) {
	req, err := deployRequest(m)
	if err != nil {
		return nil, err
	}
	if err := checkID("service_id", m.GetServiceId()); err != nil {
		return nil, err
	}
	v, err := s.cfg.Engine.Check(ctx, caller(ctx), m.GetServiceId(), req)
	return fill(&solov1.CheckResult{}, v, err)
}

// Kill answers once the processes are reaped.
func (s *Server) Kill(ctx context.Context, m *solov1.KillRequest) (*solov1.KillResult, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	opts := solo.KillOptions{Force: m.Force, Purge: m.Purge}
	if m.TimeoutMs != nil {
		if *m.TimeoutMs < 0 || *m.TimeoutMs > solo.MaxStopTimeout.Milliseconds() {
			return nil, outOfRange("timeout_ms", 0, solo.MaxStopTimeout.Milliseconds())
		}
		timeout := time.Duration(*m.TimeoutMs) * time.Millisecond
		opts.Timeout = &timeout
	}
	v, err := s.cfg.Engine.Kill(ctx, caller(ctx), m.ServiceId, opts)
	return fill(&solov1.KillResult{}, v, err)
}

func outOfRange(field string, lo, hi int64) error {
	return solo.InvalidFields(solo.Field{Field: field, Message: fmt.Sprintf("must be from %d to %d", lo, hi)})
}

// Status shows one service.
func (s *Server) Status(ctx context.Context, m *solov1.StatusRequest) (*solov1.Service, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	v, err := s.cfg.Engine.Status(ctx, caller(ctx), m.ServiceId)
	return fill(&solov1.Service{}, v, err)
}

// List shows services, oldest first.
func (s *Server) List(ctx context.Context, m *solov1.ListRequest) (*solov1.ServiceList, error) {
	limit, offset, err := page(m.Limit, m.Offset)
	if err != nil {
		return nil, err
	}
	if m.State != "" && !knownState(m.State) {
		return nil, solo.InvalidFields(solo.Field{Field: "state", Message: "is not a state"})
	}
	v, err := s.cfg.Engine.List(ctx, caller(ctx), m.State, limit, offset)
	return fill(&solov1.ServiceList{}, v, err)
}

func knownState(word string) bool {
	for _, s := range solo.States() {
		if string(s) == word {
			return true
		}
	}
	return false
}

// limitOf is a limit that was asked for; 0 is the default.
func limitOf(n int32) (int, error) {
	switch {
	case n == 0:
		return solo.DefaultLimit, nil
	case n < 0 || n > solo.MaxLimit:
		return 0, outOfRange("limit", 1, solo.MaxLimit)
	}
	return int(n), nil
}

// Restart answers once the service serves again.
func (s *Server) Restart(ctx context.Context, m *solov1.RestartRequest) (*solov1.Service, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	v, err := s.cfg.Engine.Restart(ctx, caller(ctx), m.ServiceId)
	return fill(&solov1.Service{}, v, err)
}

// Invoke calls a method; bodies pass through as they are.
func (s *Server) Invoke(ctx context.Context, m *solov1.InvokeRequest) (*solov1.InvokeReply, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	if err := solo.CheckMethod(m.Method); err != nil {
		return nil, solo.InvalidFields(solo.Field{Field: "method", Message: err.Error()})
	}
	if len(m.Body) > solo.MaxInvokeBody {
		return nil, solo.Errorf(solo.CodeTooLarge, "the body has more than the %d bytes that are allowed", solo.MaxInvokeBody).With("limit", solo.MaxInvokeBody)
	}
	p := caller(ctx)
	req := &solo.InvokeRequest{Method: m.Method, Body: m.Body, ContentType: m.ContentType, Metadata: map[string]string{"caller": identity.Caller(p)}}
	for name, value := range m.Metadata {
		if strings.HasPrefix(strings.ToLower(name), "x-solo-meta-") {
			req.Metadata[name] = value
		}
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if id := md.Get("x-request-id"); len(id) > 0 && len(id[0]) <= 64 {
			req.Metadata["request_id"] = id[0]
		}
	}
	if m.TimeoutMs != nil {
		if *m.TimeoutMs < 1 || *m.TimeoutMs > solo.MaxInvokeTimeout.Milliseconds() {
			return nil, outOfRange("timeout_ms", 1, solo.MaxInvokeTimeout.Milliseconds())
		}
		req.Timeout = time.Duration(*m.TimeoutMs) * time.Millisecond
	}
	reply, err := s.cfg.Engine.Invoke(ctx, p, m.ServiceId, req)
	if err != nil {
		return nil, err
	}
	return &solov1.InvokeReply{Body: reply.Body, ContentType: reply.ContentType, Metadata: reply.Metadata}, nil
}

// Explain says why a service is in its state.
func (s *Server) Explain(ctx context.Context, m *solov1.ExplainRequest) (*solov1.Explanation, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	v, err := s.cfg.Engine.Explain(ctx, caller(ctx), m.ServiceId)
	return fill(&solov1.Explanation{}, v, err)
}

// Crashes shows the last crashes of a service.
func (s *Server) Crashes(ctx context.Context, m *solov1.CrashesRequest) (*solov1.CrashList, error) {
	if err := checkID("service_id", m.ServiceId); err != nil {
		return nil, err
	}
	limit, offset, err := page(m.Limit, m.Offset)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Engine.Crashes(ctx, caller(ctx), m.ServiceId, limit, offset)
	return fill(&solov1.CrashList{}, v, err)
}

// Wait ends with the daemon, as a stream does.
func (s *Server) Wait(ctx context.Context, m *solov1.WaitRequest) (*solov1.WaitResult, error) {
	req := &solo.WaitRequest{ServiceID: m.ServiceId, SinceID: m.SinceId, TimeoutMS: number(m.TimeoutMs)}
	if u := m.Until; u != nil {
		req.Until = &solo.WaitUntil{State: u.State, Version: number(u.Version), EventType: u.EventType, LogMatch: u.LogMatch}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	v, err := s.cfg.Engine.Wait(ctx, caller(ctx), req)
	if err != nil {
		return nil, s.ended(err)
	}
	return fill(&solov1.WaitResult{}, v, nil)
}

// Tree shows what runs.
func (s *Server) Tree(ctx context.Context, _ *solov1.TreeRequest) (*solov1.TreeNode, error) {
	v, err := s.cfg.Engine.Tree(ctx, caller(ctx))
	return fill(&solov1.TreeNode{}, v, err)
}

// Health says how the daemon is; the details only to a caller with a proof.
func (s *Server) Health(ctx context.Context, _ *solov1.DaemonHealthRequest) (*solov1.Health, error) {
	h := s.cfg.Engine.Health(ctx)
	if caller(ctx) == (solo.Principal{}) {
		return &solov1.Health{Status: h.Status}, nil
	}
	return fill(&solov1.Health{}, h, nil)
}

// Shutdown ends the daemon as SIGTERM does.
func (s *Server) Shutdown(ctx context.Context, _ *solov1.ShutdownRequest) (*solov1.ShutdownResult, error) {
	if err := s.cfg.Engine.Shutdown(caller(ctx)); err != nil {
		return nil, err
	}
	return &solov1.ShutdownResult{Status: solo.HealthStopping}, nil
}

// streamPage is how many records a stream reads at once.
const streamPage = 256

// Watch sends the events after a cursor, and those that come.
func (s *Server) Watch(m *solov1.WatchRequest, st rpc.ServerStreamingServer[solov1.Event]) error {
	ctx := st.Context()
	if err := s.authorize(ctx, s.ops[solov1.Solo_Watch_FullMethodName], m); err != nil {
		return err
	}
	if m.ServiceId != "" {
		if err := checkID("service_id", m.ServiceId); err != nil {
			return err
		}
	}
	if m.Limit < 0 || len(m.EventType) > 128 {
		return solo.InvalidFields(solo.Field{Field: "limit", Message: "must not be negative, and event_type has at most 128 bytes"})
	}
	q := solo.EventQuery{Tenant: caller(ctx).Tenant, ServiceID: m.ServiceId, Type: solo.EventType(m.EventType), SinceID: m.GetSinceId(), Limit: streamPage}
	left := int(m.Limit)
	if m.StopAtEnd && left == 0 {
		left = solo.DefaultLimit
	}
	if m.SinceId == nil && !m.StopAtEnd {
		q.SinceID = s.cfg.Engine.LastEventID()
	}
	for {
		// A reader hears once of what retention has cut away: an event without an id.
		if first := s.cfg.Engine.FirstEventID(); q.SinceID+1 < first && !m.StopAtEnd {
			gap, err := structpb.NewStruct(map[string]any{"first_id": first})
			if err != nil {
				return solo.Internal(err)
			}
			if err := st.Send(&solov1.Event{EventType: "gap", Payload: gap}); err != nil {
				return err
			}
			q.SinceID = first - 1
		}
		page, err := s.cfg.Engine.Events(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Events {
			e, err := fill(&solov1.Event{}, &page.Events[i], nil)
			if err != nil {
				return err
			}
			if err := st.Send(e); err != nil {
				return err
			}
			if left > 0 {
				if left--; left == 0 {
					return nil
				}
			}
		}
		moved := page.NextSinceID > q.SinceID
		q.SinceID = page.NextSinceID
		if moved && q.SinceID < page.LastID {
			continue
		}
		if m.StopAtEnd {
			return nil
		}
		if err := s.cfg.Engine.WaitEvents(ctx, q.SinceID); err != nil {
			return s.ended(err)
		}
	}
}

// ended is the end of a stream: with the daemon it may be resumed, by its caller
// it is no error.
func (s *Server) ended(err error) error {
	if s.streams.Err() != nil {
		return solo.Errorf(solo.CodeShuttingDown, "the daemon is shutting down").Retry(time.Second)
	}
	return err
}

// Logs sends what services wrote, and what they write where follow asks for it.
func (s *Server) Logs(m *solov1.LogsRequest, st rpc.ServerStreamingServer[solov1.LogLine]) error {
	ctx := st.Context()
	if err := s.authorize(ctx, s.ops[solov1.Solo_Logs_FullMethodName], m); err != nil {
		return err
	}
	limit, err := limitOf(m.Limit)
	if err != nil {
		return err
	}
	if m.ServiceId != "" {
		if err := checkID("service_id", m.ServiceId); err != nil {
			return err
		}
	}
	switch m.Level {
	case "", "debug", "info", "warn", "error":
	default:
		return solo.InvalidFields(solo.Field{Field: "level", Message: "must be debug, info, warn or error"})
	}
	if m.Instance < 0 || len(m.Text) > 1024 {
		return solo.InvalidFields(solo.Field{Field: "instance", Message: "must not be negative, and text has at most 1024 bytes"})
	}
	q := solo.LogQuery{
		Tenant: caller(ctx).Tenant, ServiceID: m.ServiceId, Instance: int(m.Instance), Level: m.Level, Text: m.Text,
		SinceID: m.GetSinceId(), Limit: limit, Tail: m.Tail,
	}
	if m.Since != nil {
		q.Since = m.Since.AsTime()
	}
	if m.Until != nil {
		q.Until = m.Until.AsTime()
	}
	for {
		page, err := s.cfg.Engine.Logs(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Logs {
			l, err := fill(&solov1.LogLine{}, &page.Logs[i], nil)
			if err != nil {
				return err
			}
			if err := st.Send(l); err != nil {
				return err
			}
		}
		if !m.Follow {
			return nil
		}
		more := len(page.Logs) == q.Limit
		q.SinceID, q.Tail, q.Limit = page.NextSinceID, false, streamPage
		if more {
			continue
		}
		if err := s.cfg.Engine.WaitLogs(ctx, q.Tenant, q.SinceID); err != nil {
			return s.ended(err)
		}
	}
}
