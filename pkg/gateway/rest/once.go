package rest

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/solo-run/solo/pkg/solo"
)

const (
	idempotencyKey = "Idempotency-Key"
	maxKey         = 255
	// replayed tells a caller that the answer is the first one again.
	replayed = "Idempotent-Replayed"
)

// once answers with what do does; for a caller that shows an Idempotency-Key, a
// second request of the same key gets the first answer again (contract 4b). body is
// the request's.
func (c *call) once(body []byte, do func() (status int, v any, err error)) error {
	keys := c.Request().Header.Values(idempotencyKey)
	if len(keys) == 0 || c.principal.Tenant == "" {
		status, v, err := do()
		if err != nil {
			return err
		}
		return c.answer(status, v)
	}
	if len(keys) > 1 || !printable(keys[0]) {
		return solo.InvalidFields(solo.Field{Field: idempotencyKey, Message: "must be one value of 1 to " + strconv.Itoa(maxKey) + " printable characters"})
	}
	r := c.Request()
	request := append([]byte(r.Method+" "+r.URL.RequestURI()+"\n"), body...)
	first, finish, err := c.server.cfg.Engine.Begin(c.principal, keys[0], request, c.op.Name == solo.OpSecretsSet)
	if err != nil {
		return err
	}
	if first != nil {
		c.Response().Header().Set(replayed, "true")
		return c.JSONBlob(first.Status, first.Body)
	}
	kept := false
	defer func() {
		if !kept {
			finish(nil)
		}
	}()
	status, v, err := do()
	if err != nil {
		e := solo.AsError(err)
		if status = statusOf(err, e); !final(status) {
			return err
		}
		v = bodyOf(e)
	}
	text, merr := json.Marshal(v)
	if merr != nil {
		return solo.Internal(merr)
	}
	kept = true
	if ferr := finish(&solo.Answer{Status: status, Body: text}); ferr != nil {
		// What was asked for is done; that it is not remembered is no reason to say no.
		c.server.cfg.Log.Error("an answer cannot be kept", "request_id", c.id, "cause", ferr)
	}
	if err != nil {
		c.Response().Header().Set("Cache-Control", "no-store")
	}
	return c.JSONBlob(status, text)
}

// final reports whether the same request would be answered like that again: what
// is over, full or busy may be otherwise in a moment.
func final(status int) bool {
	return status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

func printable(s string) bool {
	if len(s) == 0 || len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
