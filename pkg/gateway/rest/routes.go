package rest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
)

// handlers is who serves which row of the table.
func (s *Server) handlers() map[string]handler {
	return map[string]handler{
		solo.OpDeploy:        s.deploy,
		solo.OpCheck:         s.check,
		solo.OpList:          s.list,
		solo.OpStatus:        s.status,
		solo.OpRestart:       s.restart,
		solo.OpKill:          s.kill,
		solo.OpInvoke:        s.invoke,
		solo.OpExplain:       s.explain,
		solo.OpCrashes:       s.crashes,
		solo.OpWait:          s.wait,
		solo.OpTree:          s.tree,
		solo.OpEvents:        s.events,
		solo.OpEventsVerify:  s.verify,
		solo.OpLogs:          s.logs,
		solo.OpHealth:        s.health,
		solo.OpLive:          s.live,
		solo.OpReady:         s.readiness,
		solo.OpBackup:        s.backup,
		solo.OpUpgrade:       s.upgrade,
		solo.OpShutdown:      s.shutdown,
		solo.OpSecretsSet:    s.storeSecret,
		solo.OpSecretsList:   s.secrets,
		solo.OpSecretsGet:    s.secret,
		solo.OpSecretsReveal: s.revealSecret,
		solo.OpSecretsRemove: s.revokeSecret,
		solo.OpVaultUnlock:   s.unlockVault,
		solo.OpVaultRotate:   s.rotateVault,
		solo.OpCapGrant:      s.grant,
		solo.OpCapAttenuate:  s.attenuate,
		solo.OpCapVerify:     s.verifyCapability,
		solo.OpCapList:       s.capabilities,
		solo.OpCapRevoke:     s.revokeCapability,
		solo.OpUsage:         s.usage,
		solo.OpMetrics:       s.metrics,
		solo.OpOpenAPI:       s.openAPI,
		solo.OpMCP:           s.mcp,
		solo.OpLLMs:          s.llms,
	}
}

// routes binds the table of operations to the handlers.
func (s *Server) routes(e *echo.Echo) error {
	handlers := s.handlers()
	for _, op := range solo.Operations() {
		h, ok := handlers[op.Name]
		if !ok {
			return fmt.Errorf("the operation %q has no handler", op.Name)
		}
		delete(handlers, op.Name)
		e.Add(op.Method, op.Path, s.serve(op, h))
	}
	for name := range handlers {
		return fmt.Errorf("the handler %q has no operation", name)
	}
	return nil
}

func (s *Server) deploy(c *call) error {
	var req solo.DeployRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if err := c.identify(req.TenantID); err != nil {
		return err
	}
	if req.ServiceID != nil {
		if err := c.authorizeFor(*req.ServiceID); err != nil {
			return err
		}
	}
	return c.once(c.read, func() (int, any, error) {
		service, created, err := s.cfg.Engine.Deploy(c.Request().Context(), c.principal, &req)
		if created {
			return http.StatusCreated, service, err
		}
		return http.StatusOK, service, err
	})
}

func (s *Server) check(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	var req solo.DeployRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if err := c.identify(req.TenantID); err != nil {
		return err
	}
	result, err := s.cfg.Engine.Check(c.Request().Context(), c.principal, id, &req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, result)
}

func (s *Server) list(c *call) error {
	q := c.query()
	var states []string
	for _, st := range solo.States() {
		states = append(states, string(st))
	}
	state := q.word("state", states...)
	limit := q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit)
	offset := q.number("offset", 0, 0, 1<<31-1)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.cfg.Engine.List(c.Request().Context(), c.principal, state, limit, offset)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

func (s *Server) status(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	service, err := s.cfg.Engine.Status(c.Request().Context(), c.principal, id)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, service)
}

func (s *Server) restart(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	service, err := s.cfg.Engine.Restart(c.Request().Context(), c.principal, id)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, service)
}

func (s *Server) kill(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	q := c.query()
	opts := solo.KillOptions{Force: q.flag("force"), Purge: q.flag("purge")}
	if ms := q.number("timeout_ms", -1, 0, int(solo.MaxStopTimeout.Milliseconds())); ms >= 0 {
		timeout := time.Duration(ms) * time.Millisecond
		opts.Timeout = &timeout
	}
	if err := q.err(); err != nil {
		return err
	}
	return c.once(nil, func() (int, any, error) {
		result, err := s.cfg.Engine.Kill(c.Request().Context(), c.principal, id, opts)
		return http.StatusOK, result, err
	})
}

const metaPrefix = "X-Solo-Meta-"

func (s *Server) invoke(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	method, err := c.param("method")
	if err != nil {
		return err
	}
	if err := solo.CheckMethod(method); err != nil {
		return solo.InvalidFields(solo.Field{Field: "method", Message: err.Error()})
	}
	r := c.Request()
	req := &solo.InvokeRequest{
		Method: method, ContentType: r.Header.Get("Content-Type"),
		Metadata: map[string]string{"caller": identity.Caller(c.principal), "request_id": c.id},
	}
	if v := r.Header.Get("X-Timeout-Ms"); v != "" {
		ms, err := strconv.ParseInt(v, 10, 64)
		if err != nil || ms < 1 || ms > solo.MaxInvokeTimeout.Milliseconds() {
			return solo.InvalidFields(solo.Field{Field: "X-Timeout-Ms", Message: fmt.Sprintf("must be a whole number from 1 to %d", solo.MaxInvokeTimeout.Milliseconds())})
		}
		req.Timeout = time.Duration(ms) * time.Millisecond
	}
	for name, values := range r.Header {
		if strings.HasPrefix(name, metaPrefix) {
			req.Metadata[name] = strings.Join(values, ", ")
		}
	}
	if req.Body, err = c.body(); err != nil {
		return err
	}
	reply, err := s.cfg.Engine.Invoke(r.Context(), c.principal, id, req)
	if err != nil {
		return err
	}
	h := c.Response().Header()
	for name, value := range reply.Metadata {
		// A service sets its own metadata, and no other header of the answer.
		if canonical := http.CanonicalHeaderKey(name); strings.HasPrefix(canonical, metaPrefix) && headerValue(value) && plainWord(name) {
			h.Set(canonical, value)
		}
	}
	contentType := reply.ContentType
	if contentType == "" || !headerValue(contentType) {
		contentType = "application/octet-stream"
	}
	return c.Blob(http.StatusOK, contentType, reply.Body)
}

func headerValue(v string) bool {
	for i := 0; i < len(v); i++ {
		if v[i] < 0x20 && v[i] != '\t' || v[i] == 0x7f {
			return false
		}
	}
	return len(v) <= 8<<10
}

func (s *Server) explain(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	out, err := s.cfg.Engine.Explain(c.Request().Context(), c.principal, id)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (s *Server) crashes(c *call) error {
	id, err := c.serviceID()
	if err != nil {
		return err
	}
	q := c.query()
	limit := q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit)
	offset := q.number("offset", 0, 0, 1<<31-1)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.cfg.Engine.Crashes(c.Request().Context(), c.principal, id, limit, offset)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

// wait ends with the daemon, as a stream does.
func (s *Server) wait(c *call) error {
	var req solo.WaitRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if req.ServiceID != nil {
		if err := c.authorizeFor(*req.ServiceID); err != nil {
			return err
		}
	}
	ctx, cancel := s.cfg.Engine.While(c.Request().Context(), c.principal)
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	result, err := s.cfg.Engine.Wait(ctx, c.principal, &req)
	if err != nil {
		if s.streams.Err() != nil {
			return solo.Errorf(solo.CodeShuttingDown, "the daemon is shutting down").Retry(time.Second)
		}
		return err
	}
	return c.answer(http.StatusOK, result)
}

func (s *Server) tree(c *call) error {
	root, err := s.cfg.Engine.Tree(c.Request().Context(), c.principal)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, root)
}

func (s *Server) verify(c *call) error {
	report, err := s.cfg.Engine.VerifyEvents(c.Request().Context())
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, report)
}

// statusOnly is what anybody may know of the daemon.
type statusOnly struct {
	Status string `json:"status"`
}

func (s *Server) health(c *call) error {
	h := s.cfg.Engine.Health(c.Request().Context())
	status := http.StatusOK
	if h.Status == solo.HealthFailing || h.Status == solo.HealthStopping {
		status = http.StatusServiceUnavailable
	}
	proofs := c.proofs()
	if !c.access().Shown(proofs) {
		return c.answer(status, statusOnly{h.Status})
	}
	if err := c.identify(nil); err != nil {
		return err
	}
	return c.answer(status, h)
}

func (s *Server) metrics(c *call) error {
	contentType, body, err := s.cfg.Engine.Metrics(c.Request().Context(), c.principal, c.Request().Header.Get("Accept"))
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, contentType, body)
}

func (s *Server) live(c *call) error { return c.answer(http.StatusOK, statusOnly{solo.HealthOK}) }

func (s *Server) readiness(c *call) error {
	if !s.cfg.Engine.Ready() {
		h := s.cfg.Engine.Health(c.Request().Context())
		return c.answer(http.StatusServiceUnavailable, statusOnly{h.Status})
	}
	return c.answer(http.StatusOK, statusOnly{solo.HealthOK})
}

// backup streams. Once the first byte is out, an error can only be told by cutting
// the answer short.
func (s *Server) backup(c *call) error {
	q := c.query()
	withKey := q.flag("with_key")
	if err := q.err(); err != nil {
		return err
	}
	out := &lazyBody{call: c}
	err := s.cfg.Engine.Backup(c.Request().Context(), c.principal, withKey, out)
	if err != nil && out.begun {
		s.cfg.Log.Error("a backup was cut short", "request_id", c.id, "cause", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// lazyBody sends the head of the answer with its first byte.
type lazyBody struct {
	call  *call
	begun bool
}

func (b *lazyBody) Write(p []byte) (int, error) {
	r := b.call.Response()
	if !b.begun {
		b.begun = true
		r.Header().Set("Content-Type", "application/x-tar")
		r.Header().Set("Content-Disposition", `attachment; filename="solo-backup.tar"`)
		r.WriteHeader(http.StatusOK)
	}
	return r.Write(p)
}

// upgrade takes no body for the binary that is installed.
func (s *Server) upgrade(c *call) error {
	var req solo.UpgradeRequest
	if c.Request().ContentLength != 0 {
		if err := c.json(&req); err != nil {
			return err
		}
	}
	binary := ""
	if req.Binary != nil {
		binary = *req.Binary
	}
	result, err := s.cfg.Engine.Upgrade(c.Request().Context(), c.principal, binary)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, result)
}

func (s *Server) shutdown(c *call) error {
	if err := s.cfg.Engine.Shutdown(c.principal); err != nil {
		return err
	}
	return c.answer(http.StatusOK, solo.ShutdownResult{Status: solo.HealthStopping})
}
