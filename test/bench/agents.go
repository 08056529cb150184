package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	mcp "github.com/modelcontextprotocol/go-sdk/mcp"
)

// agents: a call of a tool against the same call of REST, with one caller: over
// HTTP, and over a solo mcp with the official SDK's client.
func (b *bench) agents() error {
	ask := func(method, path, body string) func() error {
		return func() error {
			req, err := http.NewRequest(method, b.d.URL+path, strings.NewReader(body))
			if err != nil {
				return err
			}
			req.Header.Set("X-Tenant-ID", "bench")
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if !bytes.Contains(text, []byte("running")) {
				return fmt.Errorf("%s: %s", resp.Status, text)
			}
			return nil
		}
	}
	cmd := exec.Command(filepath.Join(b.d.Bin, "solo"), "mcp")
	cmd.Env = append(os.Environ(), "SOLO_ADDR="+b.d.URL, "SOLO_TENANT=bench")
	ctx := context.Background()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	stdio := func() error {
		r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "status", Arguments: map[string]any{"service_id": "known"}})
		if err != nil {
			return err
		}
		if r.IsError {
			return fmt.Errorf("status: %v", r.Content)
		}
		return nil
	}
	p50 := func(f func() error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			times := make([]time.Duration, 300)
			for i := range times {
				var err error
				if times[i], err = timed(f); err != nil {
					return 0, err
				}
			}
			slices.Sort(times)
			return times[len(times)/2], nil
		}
	}
	rest := p50(ask("GET", "/services/known", ""))
	const tool = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"status","arguments":{"service_id":"known"}}}`
	if err := b.pair("status as a tool over POST /mcp / over REST, p50 at one caller", "2 ms more", p50(ask("POST", "/mcp", tool)), rest); err != nil {
		return err
	}
	return b.pair("status as a tool over solo mcp, the SDK's client included / over REST, p50 at one caller", "2 ms more", p50(stdio), rest)
}
