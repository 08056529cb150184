package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
	"github.com/solo-run/solo/test/harness"
)

const adder = `package main

import (
	"context"
	"fmt"

	"github.com/solo-run/solo/sdk"
)

type pair struct{ A, B int }

func main() {
	sdk.Serve(sdk.Methods{
		"add": sdk.JSON(func(ctx context.Context, p pair) (int, error) {
			if p.A < 0 {
				return 0, sdk.Errorf("conflict", "not below zero")
			}
			fmt.Println("adding", p.A, p.B)
			return p.A + p.B, nil
		}),
		"hang": sdk.HandlerFunc(func(ctx context.Context, _ *sdk.Request) (*sdk.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
	})
}
`

// Every call, its answers and its refusals are the same over both wires.
func TestBothWires(t *testing.T) {
	dir, err := os.MkdirTemp("", "solo-wires-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: os.Environ()}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}()
	for _, addr := range []string{d.GRPC, "grpc+unix:" + filepath.Join(d.Dir, "solo-grpc.sock"), d.URL, "unix:" + filepath.Join(d.Dir, "solo.sock")} {
		name, _, _ := strings.Cut(addr, ":")
		t.Run(name, func(t *testing.T) { everyCall(t, addr, "tenant-"+strings.ReplaceAll(name, "+", "-")) })
	}
	t.Run("standard services", func(t *testing.T) { standardServices(t, strings.TrimPrefix(d.GRPC, "grpc://")) })
}

func refusal(t *testing.T, what string, err error, code client.Code) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("%s: %v, want %s", what, err, code)
	}
	return e
}

func everyCall(t *testing.T, addr, tenant string) {
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	c, err := client.New(addr, client.WithTenant(tenant))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	// Whoever follows from now on misses nothing of what comes.
	events := make(chan string, 100)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		close(ready)
		for e, err := range c.WatchEvents(watching, &solov1.WatchRequest{SinceId: proto.Uint64(0)}) {
			if err != nil {
				watched <- err
				return
			}
			events <- e.GetEventType()
		}
	}()
	<-ready

	broken := &solov1.DeployRequest{ServiceId: proto.String("adder"), Code: []byte("package main\n\nfunc main() { x() }\n")}
	e := refusal(t, "a broken source", deployErr(c.Deploy(ctx, broken)), client.CodeCompileFailed)
	if ds := e.Diagnostics(); len(ds) != 1 || ds[0].GetFile() != "main.go" || ds[0].GetLine() != 3 || ds[0].GetColumn() != 15 {
		t.Errorf("diagnostics %v", ds)
	}
	e = refusal(t, "a bad setting", deployErr(c.Deploy(ctx, &solov1.DeployRequest{ServiceId: proto.String("adder"), Code: []byte(adder), Restart: proto.String("never")})), client.CodeInvalidRequest)
	if !strings.Contains(fmt.Sprint(e.Details["fields"]), "restart") {
		t.Errorf("details %v", e.Details)
	}
	checked, err := c.Check(ctx, broken)
	if err != nil || checked.GetOk() || len(checked.GetDiagnostics()) != 1 {
		t.Errorf("check: %v, %v", checked, err)
	}
	service, err := c.Deploy(ctx, &solov1.DeployRequest{ServiceId: proto.String("adder"), Code: []byte(adder), Metadata: map[string]string{"k": "v"}, Limits: &solov1.LimitsRequest{MemoryMb: proto.Int32(64)}})
	if err != nil {
		t.Fatal(err)
	}
	if service.GetTenantId() != tenant || service.GetState() != "running" || service.GetLimits().GetMemoryMb() != 64 || service.GetMetadata()["k"] != "v" || service.GetPid() == 0 || service.LastExit != nil {
		t.Errorf("the service is %v", service)
	}
	again, err := c.Status(ctx, "adder")
	if err != nil || again.GetPid() != service.GetPid() {
		t.Errorf("status: %v, %v", again, err)
	}
	list, err := c.List(ctx, &solov1.ListRequest{State: "running"})
	if err != nil || list.GetTotal() != 1 || list.GetServices()[0].GetServiceId() != "adder" {
		t.Errorf("list: %v, %v", list, err)
	}
	refusal(t, "another specification", deployErr(c.Deploy(ctx, &solov1.DeployRequest{ServiceId: proto.String("adder"), Code: []byte(adder)})), client.CodeConflict)

	reply, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "adder", Method: "add", Body: []byte(`{"A":1,"B":2}`)})
	if err != nil || string(reply.GetBody()) != "3" || reply.GetContentType() != "application/json" {
		t.Errorf("invoke: %v, %v", reply, err)
	}
	for what, tc := range map[string]struct {
		req  *solov1.InvokeRequest
		code client.Code
	}{
		"its own code":      {&solov1.InvokeRequest{ServiceId: "adder", Method: "add", Body: []byte(`{"A":-1}`)}, client.CodeConflict},
		"no such method":    {&solov1.InvokeRequest{ServiceId: "adder", Method: "sub"}, client.CodeNotFound},
		"no such service":   {&solov1.InvokeRequest{ServiceId: "other", Method: "add"}, client.CodeNotFound},
		"a bad id":          {&solov1.InvokeRequest{ServiceId: "-", Method: "add"}, client.CodeInvalidRequest},
		"past its deadline": {&solov1.InvokeRequest{ServiceId: "adder", Method: "hang", TimeoutMs: proto.Int64(50)}, client.CodeDeadlineExceeded},
	} {
		_, err := c.Invoke(ctx, tc.req)
		refusal(t, what, err, tc.code)
	}
	restarted, err := c.Restart(ctx, "adder")
	if err != nil || restarted.GetPid() == service.GetPid() {
		t.Errorf("restart: %v, %v", restarted, err)
	}

	why, err := c.Explain(ctx, "adder")
	if err != nil || why.GetState() != "running" || why.GetNext().GetAction() != "probe" || why.GetNext().At != nil || len(why.GetChain()) == 0 || len(why.GetCalls()) == 0 {
		t.Errorf("explain: %v, %v", why, err)
	}
	if err := syscall.Kill(int(restarted.GetPid()), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	waited, err := c.Wait(ctx, &solov1.WaitRequest{ServiceId: proto.String("adder"), SinceId: proto.Uint64(0),
		Until: &solov1.WaitUntil{State: proto.String("running"), EventType: proto.String("service_crashed")}})
	if err != nil || waited.GetEvent().GetEventType() != "service_crashed" || waited.GetService().GetRestarts() != 1 || waited.Log != nil {
		t.Errorf("wait: %v, %v", waited, err)
	}
	crashes, err := c.Crashes(ctx, &solov1.CrashesRequest{ServiceId: "adder", Limit: 5})
	if err != nil || crashes.GetTotal() != 1 || crashes.GetCrashes()[0].GetLastExit().GetSignal() != "SIGKILL" || crashes.GetCrashes()[0].Panic != nil || len(crashes.GetCrashes()[0].GetUsageCurve()) == 0 {
		t.Errorf("crashes: %v, %v", crashes, err)
	}
	e = refusal(t, "a wait in vain", second(c.Wait(ctx, &solov1.WaitRequest{ServiceId: proto.String("adder"), Until: &solov1.WaitUntil{Version: proto.Int32(9)}, TimeoutMs: proto.Int32(10)})), client.CodeTimeout)
	if e.Details["state"] != "running" {
		t.Errorf("details %v", e.Details)
	}
	refusal(t, "a wait for nothing", second(c.Wait(ctx, &solov1.WaitRequest{ServiceId: proto.String("adder")})), client.CodeInvalidRequest)
	tree, err := c.Tree(ctx)
	if err != nil || tree.GetKind() != "daemon" || tree.GetChildren()[len(tree.GetChildren())-1].GetName() != tenant {
		t.Errorf("tree: %v, %v", tree, err)
	}

	page, err := c.Logs(ctx, &solov1.LogsRequest{ServiceId: "adder", Text: "adding"})
	if err != nil || len(page.GetLogs()) != 1 || page.GetLogs()[0].GetLine() != "adding 1 2" {
		t.Errorf("logs: %v, %v", page, err)
	}
	following, stopLogs := context.WithCancel(ctx)
	lines := make(chan string, 1)
	go func() {
		for l, err := range c.WatchLogs(following, &solov1.LogsRequest{ServiceId: "adder", SinceId: proto.Uint64(page.GetLogs()[0].GetId())}) {
			if err != nil {
				close(lines)
				return
			}
			if strings.HasPrefix(l.GetLine(), "adding") {
				lines <- l.GetLine()
			}
		}
	}()
	if _, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "adder", Method: "add", Body: []byte(`{"A":3,"B":4}`)}); err != nil {
		t.Error(err)
	}
	if got := <-lines; got != "adding 3 4" {
		t.Errorf("followed %q", got)
	}
	stopLogs()

	killed, err := c.Kill(ctx, &solov1.KillRequest{ServiceId: "adder", TimeoutMs: proto.Int64(1000)})
	if err != nil || killed.GetStatus() != "killed" {
		t.Errorf("kill: %v, %v", killed, err)
	}
	e = refusal(t, "a call of what is stopped", second(c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "adder", Method: "add"})), client.CodeNotRunning)
	if e.Exit().GetReason() != "killed" {
		t.Errorf("details %v", e.Details)
	}

	want := []string{"service_deployment_failed", "service_deployed", "service_started", "service_restarted", "service_started",
		"service_crashed", "service_restarted", "service_started", "service_killed"}
	for i, kind := range want {
		// The operator's reads cover all tenants, so others' events come between.
		for got := range events {
			if got == kind {
				break
			}
			if !strings.Contains(addr, "unix") {
				t.Errorf("event %d is %s, want %s", i, got, kind)
			}
		}
	}
	stop()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the stream: %v", err)
	}
	eventPage, err := c.Events(ctx, &solov1.WatchRequest{ServiceId: "adder", EventType: "service_started"})
	if err != nil || len(eventPage.GetEvents()) != 3 || eventPage.GetEvents()[0].GetPayload().AsMap()["cause"] != "deploy" {
		t.Errorf("events: %v, %v", eventPage, err)
	}
	health, err := c.Health(ctx)
	if err != nil || health.GetStatus() != "ok" || health.GetEvents().GetLastId() == 0 {
		t.Errorf("health: %v, %v", health, err)
	}
	if !strings.Contains(addr, "unix") {
		_, err := c.Shutdown(ctx)
		refusal(t, "a tenant's shutdown", err, client.CodePermissionDenied)
	}
	nobody, err := client.New(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if !strings.Contains(addr, "unix") {
		_, err = nobody.List(ctx, &solov1.ListRequest{})
		refusal(t, "without a proof", err, client.CodeUnauthenticated)
		if h, err := nobody.Health(ctx); err != nil || h.GetStatus() != "ok" || h.GetVersion() != "" {
			t.Errorf("health without a proof: %v, %v", h, err)
		}
	}
}

func deployErr(_ *solov1.Service, err error) error { return err }
func second(_ any, err error) error                { return err }

// standardServices: what any gRPC tool asks for.
func standardServices(t *testing.T, addr string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := rpc.NewClient(addr, rpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "solo.v1.Solo"})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	st, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := st.Recv()
	if err != nil || !strings.Contains(answer.String(), "solo.v1.Solo") {
		t.Errorf("reflection: %v, %v", answer, err)
	}
}
