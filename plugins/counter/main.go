// Counter keeps named counters in memory: methods with Go values, state behind a
// mutex, and all that a handler may add to its methods.
package main

import (
	"context"
	"errors"
	"sync"

	"github.com/solo-run/solo/sdk"
)

func main() { sdk.Serve(newCounter()) }

type counter struct {
	sdk.Methods

	mu     sync.Mutex
	counts map[string]int
}

type change struct {
	Name string `json:"name"`
	By   int    `json:"by"`
}

type count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

func newCounter() *counter {
	c := &counter{}
	c.Methods = sdk.Methods{"add": sdk.JSON(c.add), "get": sdk.JSON(c.get)}
	return c
}

// Start runs before the first call.
func (c *counter) Start(_ context.Context, host sdk.Host) error {
	c.counts = map[string]int{}
	host.Log("info", "counting from nothing")
	return nil
}

// Stop runs before the process ends.
func (c *counter) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	sdk.HostFrom(ctx).Log("info", "%d counters end here", len(c.counts))
	return nil
}

// Health says whether calls are welcome.
func (c *counter) Health(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.counts) > 100_000 {
		return errors.New("too many counters")
	}
	return nil
}

func (c *counter) add(_ context.Context, in change) (count, error) {
	if in.Name == "" {
		return count{}, sdk.Errorf("invalid_request", "a counter needs a name")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[in.Name] += in.By
	return count{in.Name, c.counts[in.Name]}, nil
}

func (c *counter) get(_ context.Context, in change) (count, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.counts[in.Name]
	if !ok {
		return count{}, sdk.Errorf("not_found", "there is no counter %q", in.Name)
	}
	return count{in.Name, n}, nil
}
