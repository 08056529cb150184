package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// MaxCallDepth is how long a chain of calls from service to service may be
// (contract 7).
const MaxCallDepth = 8

// Bounds of an event of a service's own.
const (
	maxEventName    = 64
	maxEventPayload = 16 << 10
)

// asker is an instance that asks something of its host: the socket says who it is.
type asker struct {
	key       solo.Key
	instance  int
	principal solo.Principal
	secrets   []string
}

// who is the asker as events tell it.
func (a *asker) who() map[string]any {
	return map[string]any{"principal": "service", "service": a.key.Service, "instance": a.instance, "proof": a.principal.Proof}
}

// ProofInstance is the proof of a service that asks over its own socket.
const ProofInstance = "instance"

// hostOf answers what an instance asks. It may do what its deploy grants, and no
// more.
func (e *Engine) hostOf(key solo.Key, instance int, s solo.Settings) process.Host {
	a := &asker{key: key, instance: instance, secrets: s.Secrets, principal: solo.Principal{
		Tenant: key.Tenant, Proof: ProofInstance, Rights: capability.Granted(s.Grants),
	}}
	return func(ctx context.Context, call process.HostCall) (*process.HostReply, error) {
		switch call.Op {
		case "secret":
			return e.hostSecret(ctx, a, call)
		case "call":
			return e.hostCall(ctx, a, call)
		case "emit":
			return e.hostEmit(a, call)
		}
		return nil, solo.Errorf(solo.CodeInvalidRequest, "this solod does not know %.40q", call.Op)
	}
}

// refuse is what a service is told that may not, with what would help; the log is
// told too.
func (e *Engine) refuse(a *asker, permission solo.Permission, resource, where string) error {
	err := e.burst(burstKey{kind: solo.EventCapabilityDenied, tenant: a.key.Tenant, what: a.key.Service + " " + string(permission)}, func() map[string]any {
		return map[string]any{"operation": "host", "permission": permission, "resource": resource, "by": a.who()}
	})
	if err != nil {
		return err
	}
	return solo.Errorf(solo.CodePermissionDenied, "the service was not granted %s on %.160s: name it in the deploy's %s", permission, resource, where)
}

// hostSecret reads a secret that the deploy names. With "after" it waits for another
// version than that.
func (e *Engine) hostSecret(ctx context.Context, a *asker, call process.HostCall) (*process.HostReply, error) {
	name := call.Args["name"]
	if !slices.Contains(a.secrets, name) {
		return nil, e.refuse(a, solo.PermissionRead, secretSubject(name), "secrets")
	}
	if after, ok := call.Args["after"]; ok {
		version, err := strconv.Atoi(after)
		if err != nil {
			return nil, solo.Errorf(solo.CodeInvalidRequest, "after must be a version")
		}
		if err := e.untilSecret(ctx, a.key.Tenant, name, version); err != nil {
			return nil, err
		}
	}
	s, value, err := e.openSecret(a.key.Tenant, name, nil, map[string]any{"by": a.who()})
	if err != nil {
		return nil, err
	}
	return &process.HostReply{Values: map[string]string{"version": strconv.Itoa(s.Version)}, Body: value}, nil
}

// untilSecret returns once a secret has another version than that, or is gone.
func (e *Engine) untilSecret(ctx context.Context, tenant, name string, version int) error {
	for {
		changed := e.cfg.Vault.Changed()
		var now solo.Secret
		err := e.cfg.DB.View(func(tx *store.Tx) (err error) {
			now, err = e.cfg.Vault.Info(tx, tenant, name)
			return err
		})
		if err != nil || now.Version != version {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return solo.Errorf(solo.CodeDeadlineExceeded, "the secret %q has not changed", name)
		}
	}
}

// hostCall calls a method of another service of the tenant's, within the caller's
// deadline.
func (e *Engine) hostCall(ctx context.Context, a *asker, call process.HostCall) (*process.HostReply, error) {
	service, method := call.Args["service"], call.Args["method"]
	if err := solo.CheckID(service); err != nil {
		return nil, solo.InvalidFields(solo.Field{Field: "service", Message: err.Error()})
	}
	if err := solo.CheckMethod(method); err != nil {
		return nil, solo.InvalidFields(solo.Field{Field: "method", Message: err.Error()})
	}
	depth, err := strconv.Atoi(call.Args["depth"])
	if err != nil || depth < 0 || depth >= MaxCallDepth {
		return nil, solo.Errorf(solo.CodeInvalidRequest, "a chain of calls from service to service has at most %d links", MaxCallDepth)
	}
	if !a.principal.Allows(solo.PermissionInvoke, solo.ServiceSubject(service), method) {
		return nil, e.refuse(a, solo.PermissionInvoke, solo.ServiceSubject(service), "grants")
	}
	req := &solo.InvokeRequest{
		Method: method, Body: call.Body, ContentType: call.ContentType, Timeout: solo.MaxInvokeTimeout,
		Metadata: map[string]string{"caller": "service:" + a.key.Service, "request_id": call.Args["request_id"], "depth": strconv.Itoa(depth + 1)},
	}
	for name, value := range call.Args {
		if strings.HasPrefix(name, "X-Solo-Meta-") {
			req.Metadata[name] = value
		}
	}
	reply, err := e.Invoke(ctx, a.principal, service, req)
	if err != nil {
		return nil, err
	}
	return &process.HostReply{Values: reply.Metadata, Body: reply.Body, ContentType: reply.ContentType}, nil
}

// hostEmit appends an event of the service's own.
func (e *Engine) hostEmit(a *asker, call process.HostCall) (*process.HostReply, error) {
	name := call.Args["name"]
	if !eventName(name) {
		return nil, solo.InvalidFields(solo.Field{Field: "name", Message: fmt.Sprintf("must be 1 to %d of [a-z0-9_.]", maxEventName)})
	}
	if len(call.Body) > maxEventPayload {
		return nil, solo.Errorf(solo.CodeTooLarge, "the payload has more than the %d bytes that are allowed", maxEventPayload)
	}
	var payload map[string]any
	if err := json.Unmarshal(call.Body, &payload); err != nil || payload == nil {
		return nil, solo.InvalidFields(solo.Field{Field: "payload", Message: "must be a JSON object"})
	}
	if !a.principal.Allows(solo.PermissionWrite, "events", "") {
		return nil, e.refuse(a, solo.PermissionWrite, "events", "grants")
	}
	if e.stopping.Load() {
		return nil, solo.Errorf(solo.CodeShuttingDown, "the daemon is shutting down")
	}
	var id uint64
	err := e.cfg.DB.Update(func(tx *store.Tx) (err error) {
		id, err = e.cfg.Events.Append(tx, solo.Event{
			TenantID: a.key.Tenant, Type: solo.EventType("app." + name), Subject: solo.ServiceSubject(a.key.Service), Payload: payload,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &process.HostReply{Values: map[string]string{"id": strconv.FormatUint(id, 10)}}, nil
}

func eventName(s string) bool {
	if len(s) == 0 || len(s) > maxEventName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '.' {
			continue
		}
		return false
	}
	return true
}

// allowed checks that what a deploy gives its service is the caller's to give, and
// is there.
func (e *Engine) allowed(p solo.Principal, key solo.Key, s solo.Settings) error {
	for i, g := range s.Grants {
		if err := capability.CheckResource(g.Resource); err != nil {
			return solo.InvalidFields(solo.Field{Field: fmt.Sprintf("grants.%d.resource", i), Message: err.Error()})
		}
		if h, ok := p.Rights.(*capability.Holder); ok && !h.Holds(g.Resource, g.Permissions, nil) {
			return e.denied(p, g.Permissions[0], g.Resource)
		}
	}
	for _, name := range s.Secrets {
		if !p.Allows(solo.PermissionRead, secretSubject(name), "") {
			return e.denied(p, solo.PermissionRead, secretSubject(name))
		}
	}
	if len(s.Secrets) == 0 {
		return nil
	}
	return e.cfg.DB.View(func(tx *store.Tx) error {
		for _, name := range s.Secrets {
			info, err := e.cfg.Vault.Info(tx, key.Tenant, name)
			if solo.CodeOf(err) == solo.CodeNotFound {
				return solo.Errorf(solo.CodeConflict, "the secret %q is missing: store it first", name).With("secret", name)
			}
			if err != nil {
				return err
			}
			if info.Locked {
				return solo.Errorf(solo.CodeConflict, "the secret %q is locked by a caller's own key, and so cannot be given to a service", name).With("secret", name)
			}
		}
		return nil
	})
}
