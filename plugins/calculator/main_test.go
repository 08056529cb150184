package main

import (
	"strings"
	"testing"

	"github.com/solo-run/solo/sdk/sdktest"
)

func TestEval(t *testing.T) {
	s := sdktest.New(t, newCalculator())
	for body, want := range map[string]string{
		`{"expr": "1 + 2 * 3"}`:     "7",
		`{"expr": "(1 + 2) * 3"}`:   "9",
		`{"expr": "-2 * -(3 - 5)"}`: "-4",
		`{"expr": "1 / 4"}`:         "0.25",
	} {
		if got, err := s.Call("eval", body); err != nil || got != want {
			t.Errorf("eval %s = %s, %v; want %s", body, got, err, want)
		}
	}
	for _, body := range []string{`{"expr": "1 +"}`, `{"expr": "1 / 0"}`, `{"expr": "(1"}`, `{"expr": "1 1"}`, `{}`, `[`} {
		if got, err := s.Call("eval", body); err == nil {
			t.Errorf("eval %s = %s, want an error", body, got)
		}
	}
}

func TestHelp(t *testing.T) {
	s := sdktest.New(t, newCalculator())
	if got, err := s.Call("help", ""); err != nil || !strings.Contains(got, "eval") {
		t.Errorf("help = %q, %v", got, err)
	}
}
