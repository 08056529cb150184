package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/solo-run/solo/sdk"
	"github.com/solo-run/solo/sdk/sdktest"
)

type sum struct{ A, B int }

func code(err error) string {
	var e *sdk.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Code
}

func TestJSON(t *testing.T) {
	s := sdktest.New(t, sdk.Methods{
		"add":  sdk.JSON(func(_ context.Context, in sum) (int, error) { return in.A + in.B, nil }),
		"text": sdk.JSON(func(context.Context, any) (string, error) { return `te"xt`, nil }),
		"bad":  sdk.JSON(func(context.Context, any) (any, error) { return func() {}, nil }),
		"no":   sdk.JSON(func(context.Context, any) (any, error) { return nil, sdk.Errorf("conflict", "a %w", fs.ErrExist) }),
		"nil":  nil,
	})
	for _, tc := range []struct{ method, body, want, code string }{
		{"add", `{"A":1,"B":2}`, "3", ""},
		{"add", `{"a":1,"unknown":true}`, "1", ""},
		{"add", ``, "0", ""},
		{"add", `{"A":"x"}`, "", "invalid_request"},
		{"add", `{`, "", "invalid_request"},
		{"text", ``, `"te\"xt"`, ""},
		{"no", ``, "", "conflict"},
		{"nil", ``, "", "not_found"},
		{"none", ``, "", "not_found"},
	} {
		got, err := s.Call(tc.method, tc.body)
		if got != tc.want || code(err) != tc.code || (err == nil) != (tc.code == "") {
			t.Errorf("%s %s = %s, %v; want %s, %q", tc.method, tc.body, got, err, tc.want, tc.code)
		}
	}
	if _, err := s.Call("bad", ""); err == nil || code(err) != "" {
		t.Errorf("a reply that cannot be encoded: %v", err)
	}
	if _, err := s.Call("no", ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%%w is lost: %v", err)
	}
}

type lifecycle struct {
	sdk.Methods
	started, stopped bool
}

func (l *lifecycle) Start(_ context.Context, h sdk.Host) error {
	h.Log("info", "up %d", 1)
	l.started = true
	return nil
}

func (l *lifecycle) Stop(context.Context) error   { l.stopped = true; return nil }
func (l *lifecycle) Health(context.Context) error { return errors.New("not well") }

func TestLifecycleIsFoundBesideEmbeddedMethods(t *testing.T) {
	l := &lifecycle{}
	t.Run("service", func(t *testing.T) {
		s := sdktest.New(t, l)
		if !l.started || fmt.Sprint(s.Logs()) != "[{info up 1}]" {
			t.Errorf("started %v, logs %v", l.started, s.Logs())
		}
		if err := s.Health(); err == nil || !strings.Contains(err.Error(), "not well") {
			t.Errorf("Health = %v", err)
		}
	})
	if !l.stopped {
		t.Error("Stop did not run")
	}
}
