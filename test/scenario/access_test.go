package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/test/harness"
)

// verdict is what a caller is told, coarsely.
type verdict string

const (
	unknown  verdict = "401"
	denied   verdict = "403"
	missing  verdict = "404"
	admitted verdict = "admitted"
)

func verdictOf(httpStatus int) verdict {
	switch httpStatus {
	case http.StatusUnauthorized:
		return unknown
	case http.StatusForbidden:
		return denied
	case http.StatusNotFound:
		return missing
	}
	return admitted
}

func verdictOfCode(c codes.Code) verdict {
	switch c {
	case codes.Unauthenticated:
		return unknown
	case codes.PermissionDenied:
		return denied
	case codes.NotFound:
		return missing
	}
	return admitted
}

// proof is a column of the matrix.
type proof struct {
	name, token string
	operator    bool
	want        func(op solo.Operation) verdict
}

// access is a daemon that wants capabilities, with a service and a secret of the
// tenant t.
type access struct {
	d      *harness.Daemon
	socket *http.Client
}

func (a *access) operator(t *testing.T, method, path, tenant, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, "http://solo"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if tenant != "" {
		req.Header.Set("X-Tenant-ID", tenant)
	}
	resp, err := a.socket.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text
}

func (a *access) grant(t *testing.T, tenant, body string) (tok, id string) {
	t.Helper()
	code, text := a.operator(t, "POST", "/capabilities", tenant, body)
	var g solo.CapabilityGrant
	if err := json.Unmarshal(text, &g); err != nil || code != http.StatusCreated {
		t.Fatalf("a grant is %d: %s", code, text)
	}
	return g.Token, g.Capability.ID
}

func newAccess(t *testing.T) *access {
	t.Helper()
	dir, err := os.MkdirTemp("", "solo-access-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: append(os.Environ(), "SOLO_SECURITY__REQUIRE_CAPABILITY=true")}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(d.Dir, "solo.sock"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	a := &access{d: d, socket: &http.Client{Transport: transport}}
	source, err := os.ReadFile(filepath.Join("..", "..", "plugins", "echo", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"service_id": "a", "code": string(source)})
	if err != nil {
		t.Fatal(err)
	}
	if code, text := a.operator(t, "POST", "/services", "t", string(body)); code != http.StatusCreated {
		t.Fatalf("the deploy is %d: %s", code, text)
	}
	if code, text := a.operator(t, "POST", "/secrets", "t", `{"key": "a", "value": "v"}`); code != http.StatusCreated {
		t.Fatalf("the secret is %d: %s", code, text)
	}
	return a
}

// proofs are the columns: what each gets for every operation.
func (a *access) proofs(t *testing.T) []proof {
	t.Helper()
	everything := `{"resource": "**", "permissions": ["admin"]`
	full, _ := a.grant(t, "t", everything+`}`)
	others, _ := a.grant(t, "u", everything+`}`)
	narrow, _ := a.grant(t, "t", `{"resource": "registry/nothing", "permissions": ["admin"]}`)
	expired, _ := a.grant(t, "t", everything+`, "ttl_seconds": 1}`)
	revoked, id := a.grant(t, "t", everything+`}`)
	if code, text := a.operator(t, "DELETE", "/capabilities/"+id, "t", ""); code != http.StatusOK {
		t.Fatalf("the revocation is %d: %s", code, text)
	}
	ends := time.Now().Add(1100 * time.Millisecond)
	open := func(op solo.Operation) bool { return op.Permission == solo.PermissionNone }
	always := func(v verdict) func(solo.Operation) verdict {
		return func(op solo.Operation) verdict {
			if open(op) {
				return admitted
			}
			return v
		}
	}
	// A token that is shown binds, also where none is needed.
	bad := func(op solo.Operation) verdict {
		if open(op) && op.Name != solo.OpHealth {
			return admitted
		}
		return unknown
	}
	tenant := func(v verdict) func(solo.Operation) verdict {
		return func(op solo.Operation) verdict {
			switch {
			case open(op), op.Permission == solo.PermissionAny:
				return admitted
			case op.Permission == solo.PermissionOperator:
				return denied
			}
			return v
		}
	}
	time.Sleep(time.Until(ends))
	return []proof{
		{name: "none", want: always(unknown)},
		{name: "expired", token: expired, want: bad},
		{name: "revoked", token: revoked, want: bad},
		{name: "narrowed", token: narrow, want: tenant(denied)},
		{name: "another tenant's", token: others, want: func(op solo.Operation) verdict {
			named := strings.Contains(op.Path, ":") || op.Name == solo.OpWait
			if v := tenant(admitted)(op); v != admitted || !named || op.Name == solo.OpCheck {
				return v // a check is of a source of the caller's own
			}
			return missing
		}},
		{name: "operator", operator: true, want: func(solo.Operation) verdict { return admitted }},
		{name: "its own", token: full, want: tenant(admitted)},
	}
}

// bodies are what the operations need to come to their check.
var bodies = map[string]string{
	solo.OpDeploy: `{"service_id": "a", "code": "package main"}`, solo.OpCheck: `{"code": "package main"}`,
	solo.OpWait:       `{"service_id": "a", "until": {"state": "running"}, "timeout_ms": 100}`,
	solo.OpSecretsSet: `{"key": "b", "value": "v"}`, solo.OpVaultUnlock: `{"passphrase": "12345678"}`,
	solo.OpCapGrant:     `{"resource": "services/a", "permissions": ["read"]}`,
	solo.OpCapAttenuate: `{"permissions": ["read"]}`, solo.OpCapVerify: `{"token": "x", "resource": "a", "permission": "read"}`,
}

// The matrix of every operation of the table and every proof, over REST.
func TestWhoMayWhat(t *testing.T) {
	a := newAccess(t)
	for _, p := range a.proofs(t) {
		for _, op := range solo.Operations() {
			if p.want(op) == admitted && (op.Name == solo.OpShutdown || op.Name == solo.OpUpgrade) {
				continue // it would be the end of the matrix
			}
			if p.want(op) == admitted && (op.Name == solo.OpKill || op.Name == solo.OpSecretsRemove || op.Name == solo.OpCapRevoke) {
				continue // what others need; the scripts do it
			}
			path := strings.NewReplacer(":id", "a", ":method", "Echo", ":key", "a").Replace(op.Path)
			t.Run(p.name+"/"+op.Name, func(t *testing.T) {
				client, url := http.DefaultClient, a.d.URL+path
				if p.operator {
					client, url = a.socket, "http://solo"+path
				}
				ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, op.Method, url, strings.NewReader(bodies[op.Name]))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", "application/json")
				if op.Response == nil {
					req.Header.Set("Accept", "*/*")
				}
				switch {
				case p.token != "":
					req.Header.Set("Authorization", "Bearer "+p.token)
				case p.operator:
					req.Header.Set("X-Tenant-ID", "t")
				default:
					req.Header.Set("X-Tenant-ID", "t") // which proves nothing here
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
				if err != nil {
					t.Fatal(err)
				}
				if got, want := verdictOf(resp.StatusCode), p.want(op); got != want && (want != admitted || got != missing && op.Name != solo.OpVaultUnlock || got == unknown || got == denied) {
					t.Errorf("%s %s is %s, want %s: %s", op.Method, path, got, want, text)
				}
				if want := p.want(op); want == unknown || want == denied {
					var e struct {
						Error   string         `json:"error"`
						Message string         `json:"message"`
						Details map[string]any `json:"details"`
					}
					if err := json.Unmarshal(text, &e); err != nil || e.Error == "" || e.Message == "" || e.Details == nil {
						t.Errorf("the refusal is %s", text)
					}
					if p.token != "" && bytes.Contains(text, []byte(p.token)) {
						t.Error("the refusal holds the token")
					}
				}
			})
		}
	}
	// None of that is in another tenant's log.
	_, text := a.operator(t, "GET", "/events?limit=1000", "u", "")
	if !bytes.Contains(text, []byte(`"tenant_id":"u"`)) || bytes.Contains(text, []byte(`"tenant_id":"t"`)) {
		t.Errorf("the other tenant's log tells of it: %s", text)
	}
}

// The same over gRPC, generated from the proto.
func TestWhoMayWhatOverGRPC(t *testing.T) {
	a := newAccess(t)
	conn, err := rpc.NewClient(strings.TrimPrefix(a.d.GRPC, "grpc://"), rpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ops := map[string]solo.Operation{}
	for _, op := range solo.Operations() {
		if op.RPC != "" {
			ops[op.FullRPC()] = op
		}
	}
	var methods []protoreflect.MethodDescriptor
	for _, file := range []protoreflect.FileDescriptor{solov1.File_solo_v1_solo_proto, solov1.File_solo_v1_vault_proto, solov1.File_solo_v1_capabilities_proto} {
		for n := range file.Services().Len() {
			for i := range file.Services().Get(n).Methods().Len() {
				methods = append(methods, file.Services().Get(n).Methods().Get(i))
			}
		}
	}
	for _, p := range a.proofs(t) {
		if p.operator {
			continue // a peer of the socket; the scripts do it
		}
		for _, method := range methods {
			op, ok := ops[fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())]
			if !ok {
				t.Fatalf("the method %s has no row in the table", method.Name())
			}
			want := p.want(op)
			if want == admitted && (op.Name == solo.OpShutdown || op.Name == solo.OpKill || strings.HasPrefix(string(method.Parent().Name()), "Cap") || op.Name == solo.OpSecretsRemove) {
				continue
			}
			t.Run(p.name+"/"+string(method.FullName()), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
				defer cancel()
				if p.token != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.token)
				} else if op.Permission != solo.PermissionNone {
					ctx = metadata.AppendToOutgoingContext(ctx, "x-tenant-id", "t")
				}
				err := call(ctx, conn, method)
				if got := verdictOfCode(grpcstatus.Code(err)); got != want {
					t.Errorf("%s is %s, want %s: %v", method.FullName(), got, want, err)
				}
			})
		}
	}
}

// call makes the call with a message that names the service a, and takes the first
// answer of a stream.
func call(ctx context.Context, conn *rpc.ClientConn, method protoreflect.MethodDescriptor) error {
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	for name, text := range map[protoreflect.Name]string{"service_id": "a", "method": "Echo", "key": "a", "value": "v"} {
		if f := method.Input().Fields().ByName(name); f != nil {
			in.Set(f, protoreflect.ValueOfString(text))
		}
	}
	if f := method.Input().Fields().ByName("key"); f != nil && method.Name() == "Store" {
		in.Set(f, protoreflect.ValueOfString("b")) // a is what the others ask for
	}
	if f := method.Input().Fields().ByName("stop_at_end"); f != nil {
		in.Set(f, protoreflect.ValueOfBool(true))
	}
	if f := method.Input().Fields().ByName("until"); f != nil {
		until := in.Mutable(f).Message()
		if state := until.Descriptor().Fields().ByName("state"); state != nil {
			until.Set(state, protoreflect.ValueOfString("running"))
		}
	}
	full := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	if !method.IsStreamingServer() {
		return conn.Invoke(ctx, full, proto.Message(in), proto.Message(out))
	}
	st, err := conn.NewStream(ctx, &rpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return err
	}
	if err := st.SendMsg(in); err != nil {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	for {
		if err := st.RecvMsg(out); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A stream that is open ends when its capability is revoked, over both wires.
func TestAStreamEndsWithItsProof(t *testing.T) {
	a := newAccess(t)
	tok, id := a.grant(t, "t", `{"resource": "**", "permissions": ["read"]}`)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", a.d.URL+"/events?since_id=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the stream is %v, %v", resp, err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.NewClient(strings.TrimPrefix(a.d.GRPC, "grpc://"), rpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	since := uint64(0)
	watch, err := solov1.NewSoloClient(conn).Watch(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tok), &solov1.WatchRequest{SinceId: &since})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if code, text := a.operator(t, "DELETE", "/capabilities/"+id, "t", ""); code != http.StatusOK {
		t.Fatalf("the revocation is %d: %s", code, text)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream of REST does not end in order: %v", err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if ctx.Err() != nil {
		t.Errorf("the stream of gRPC goes on: %v", err)
	}
}

// Nothing of solod's memory lands in a core dump.
func TestNoCoreDumps(t *testing.T) {
	a := newAccess(t)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", a.d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			if f := strings.Fields(rest); f[0] != "0" || f[1] != "0" {
				t.Errorf("the limit of a core file is %s", rest)
			}
			return
		}
	}
	t.Error("there is no limit of core files")
}
