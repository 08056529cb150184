package rest

import (
	"net/http"

	"github.com/solo-run/solo/pkg/solo"
)

// private keeps an answer that holds a secret or a token out of every cache.
func (c *call) private(status int, v any) error {
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.answer(status, v)
}

// secretName is the name in the path.
func (c *call) secretName() (string, error) {
	name, err := c.param("key")
	if err != nil {
		return "", err
	}
	if err := solo.CheckID(name); err != nil {
		return "", solo.InvalidFields(solo.Field{Field: "key", Message: err.Error()})
	}
	return name, nil
}

// page reads limit and offset.
func (c *call) page() (limit, offset int, err error) {
	q := c.query()
	limit, offset = q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit), q.number("offset", 0, 0, 1<<31-1)
	return limit, offset, q.err()
}

// optional is json for a body that may be left out.
func (c *call) optional(out any) error {
	if c.Request().ContentLength == 0 {
		return nil
	}
	return c.json(out)
}

func (s *Server) storeSecret(c *call) error {
	var req solo.SecretRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if req.Key != nil {
		if err := c.authorizeFor(*req.Key); err != nil {
			return err
		}
	}
	return c.once(c.read, func() (int, any, error) {
		secret, err := s.cfg.Engine.StoreSecret(c.Request().Context(), c.principal, &req)
		return http.StatusCreated, secret, err
	})
}

func (s *Server) secrets(c *call) error {
	limit, offset, err := c.page()
	if err != nil {
		return err
	}
	list, err := s.cfg.Engine.Secrets(c.Request().Context(), c.principal, limit, offset)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

func (s *Server) secret(c *call) error {
	name, err := c.secretName()
	if err != nil {
		return err
	}
	secret, err := s.cfg.Engine.Secret(c.Request().Context(), c.principal, name)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, secret)
}

func (s *Server) revealSecret(c *call) error {
	name, err := c.secretName()
	if err != nil {
		return err
	}
	var req solo.RevealRequest
	if err := c.optional(&req); err != nil {
		return err
	}
	secret, err := s.cfg.Engine.RevealSecret(c.Request().Context(), c.principal, name, plain(req.EncryptionKey))
	if err != nil {
		return err
	}
	return c.private(http.StatusOK, secret)
}

// plain is nil for what was left out.
func plain(s *solo.Sensitive) solo.Sensitive {
	if s == nil {
		return nil
	}
	return *s
}

func (s *Server) revokeSecret(c *call) error {
	name, err := c.secretName()
	if err != nil {
		return err
	}
	return c.once(nil, func() (int, any, error) {
		revoked, err := s.cfg.Engine.RevokeSecret(c.Request().Context(), c.principal, name)
		return http.StatusOK, revoked, err
	})
}

func (s *Server) unlockVault(c *call) error {
	var req solo.UnlockRequest
	if err := c.json(&req); err != nil {
		return err
	}
	if req.Passphrase == nil {
		return solo.InvalidFields(solo.Field{Field: "passphrase", Message: "is required"})
	}
	status, err := s.cfg.Engine.UnlockVault(c.Request().Context(), c.principal, *req.Passphrase)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, status)
}

func (s *Server) rotateVault(c *call) error {
	var req solo.RotateRequest
	if err := c.optional(&req); err != nil {
		return err
	}
	status, err := s.cfg.Engine.RotateVault(c.Request().Context(), c.principal, plain(req.Passphrase))
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, status)
}

func (s *Server) grant(c *call) error {
	var req solo.CapabilityRequest
	if err := c.json(&req); err != nil {
		return err
	}
	granted, err := s.cfg.Engine.Grant(c.Request().Context(), c.principal, &req)
	if err != nil {
		return err
	}
	return c.private(http.StatusCreated, granted)
}

func (s *Server) attenuate(c *call) error {
	var req solo.CapabilityRequest
	if err := c.json(&req); err != nil {
		return err
	}
	narrowed, err := s.cfg.Engine.Attenuate(c.Request().Context(), c.principal, &req)
	if err != nil {
		return err
	}
	return c.private(http.StatusCreated, narrowed)
}

func (s *Server) verifyCapability(c *call) error {
	var req solo.VerifyRequest
	if err := c.json(&req); err != nil {
		return err
	}
	result, err := s.cfg.Engine.VerifyCapability(c.Request().Context(), c.principal, &req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, result)
}

func (s *Server) capabilities(c *call) error {
	limit, offset, err := c.page()
	if err != nil {
		return err
	}
	list, err := s.cfg.Engine.Capabilities(c.Request().Context(), c.principal, limit, offset)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

func (s *Server) revokeCapability(c *call) error {
	id, err := c.param("id")
	if err != nil {
		return err
	}
	revoked, err := s.cfg.Engine.RevokeCapability(c.Request().Context(), c.principal, id)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, revoked)
}
