package sdk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/solo-run/solo/sdk/wire"
)

// build builds a program of the tree with the flags of a tenant's build.
func build(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "service")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return out
}

// grpcPlugin is a plugin of which the host wants no more than a connection.
type grpcPlugin struct{ plugin.Plugin }

func (grpcPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }
func (grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// The stock host of go-plugin takes a service for a plugin: it starts, pings,
// dispenses and kills it.
func TestStockHost(t *testing.T) {
	binary := build(t, "../plugins/counter")
	var out bytes.Buffer
	var mu sync.Mutex
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: wire.Version, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		Plugins:          plugin.PluginSet{"service": grpcPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Cmd:              command(binary, t.TempDir()),
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &lockedWriter{&mu, &out}}),
	})
	defer client.Kill()
	rpc, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := rpc.Ping(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := rpc.Dispense("service")
	if err != nil {
		t.Fatal(err)
	}
	// What is no call of go-plugin's is refused, and not left hanging.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = got.(*grpc.ClientConn).Invoke(ctx, "/some.Service/Method", nil, nil, grpc.ForceCodec(noCodec{}))
	if err == nil || !strings.Contains(err.Error(), "Unimplemented") {
		t.Errorf("another call: %v", err)
	}
	began := time.Now()
	client.Kill()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Kill took %v: Shutdown was not answered", took)
	}
	if !client.Exited() {
		t.Error("the process is still there")
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(out.String(), "0 counters end here") {
		t.Errorf("the author's Stop did not run:\n%s", out.String())
	}
}

func command(binary, dir string) *exec.Cmd {
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), wire.SocketDirEnv+"="+dir)
	return cmd
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

type noCodec struct{}

func (noCodec) Marshal(any) ([]byte, error) { return nil, nil }
func (noCodec) Unmarshal([]byte, any) error { return nil }
func (noCodec) Name() string                { return "none" }

func TestAServiceByItselfSaysWhatItIs(t *testing.T) {
	cmd := exec.Command(build(t, "../plugins/echo"))
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "solo deploy") {
		t.Errorf("run by hand: %v, %q", err, out)
	}
}

// What the SDK links is what each deploy waits for (performance.md, section 1).
func TestAServiceLinksLittle(t *testing.T) {
	info, err := os.Stat(build(t, "../plugins/echo"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 2_000_000 {
		t.Errorf("the smallest service has %d bytes, at most 2000000 are allowed", info.Size())
	}
	text, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", "../plugins/echo").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for dec := json.NewDecoder(bytes.NewReader(text)); dec.More(); packages++ {
		var p struct{ ImportPath string }
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		for _, never := range []string{"net", "net/http", "crypto/tls", "text/template", "html/template"} {
			if p.ImportPath == never {
				t.Errorf("the smallest service links %s", never)
			}
		}
		for _, never := range []string{"google.golang.org/", "github.com/hashicorp/"} {
			if strings.HasPrefix(p.ImportPath, never) {
				t.Errorf("the smallest service links %s", p.ImportPath)
			}
		}
	}
	if packages > 80 {
		t.Errorf("the smallest service links %d packages, at most 80 are allowed", packages)
	}
	// A method that is looked up by a name that is not constant keeps the linker
	// from dropping any.
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("wire/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(sources, more...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(src, []byte("MethodByName")) {
			t.Errorf("%s uses MethodByName", file)
		}
	}
}
