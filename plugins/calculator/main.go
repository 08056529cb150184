// Calculator evaluates arithmetic: a service of several files, a package of its
// own, data that is embedded, and tests that run before it goes live.
package main

import (
	"context"
	_ "embed"

	"calculator/expr"
	"github.com/solo-run/solo/sdk"
)

//go:embed help.txt
var help string

func main() { sdk.Serve(newCalculator()) }

func newCalculator() sdk.Handler {
	return sdk.Methods{
		"eval": sdk.JSON(eval),
		"help": sdk.HandlerFunc(func(context.Context, *sdk.Request) (*sdk.Response, error) {
			return &sdk.Response{Body: []byte(help), ContentType: "text/plain; charset=utf-8"}, nil
		}),
	}
}

type question struct {
	Expr string `json:"expr"`
}

func eval(_ context.Context, q question) (float64, error) {
	v, err := expr.Eval(q.Expr)
	if err != nil {
		return 0, sdk.Errorf("invalid_request", "%w", err)
	}
	return v, nil
}
