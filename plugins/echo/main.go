// Echo answers every method with the body that it was given: the smallest
// service there is.
package main

import (
	"context"

	"github.com/solo-run/solo/sdk"
)

func main() { sdk.Serve(sdk.HandlerFunc(echo)) }

func echo(_ context.Context, req *sdk.Request) (*sdk.Response, error) {
	return &sdk.Response{Body: req.Body, ContentType: req.ContentType, Metadata: req.Metadata}, nil
}
