package identity_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
)

func TestResolve(t *testing.T) {
	nobody, operator := identity.Peer{UID: -1}, identity.Peer{UID: 0}
	a, b, bad := "a", "b", "-a"
	token := func(text string) (solo.Principal, error) {
		if text != "good" {
			return solo.Principal{}, solo.Errorf(solo.CodeUnauthenticated, "no")
		}
		return solo.Principal{Tenant: a, Capability: "id"}, nil
	}
	ofToken := solo.Principal{Tenant: a, Capability: "id", Proof: "capability"}
	for _, tc := range []struct {
		name    string
		proofs  identity.Proofs
		want    solo.Principal
		code    solo.Code
		require bool
	}{
		{"a token", identity.Proofs{Peer: nobody, Tokens: []string{"Bearer good"}}, ofToken, "", false},
		{"a token in another case of its scheme", identity.Proofs{Peer: nobody, Tokens: []string{"bearer  good"}}, ofToken, "", false},
		{"a token of the tenant that is named", identity.Proofs{Peer: nobody, Tokens: []string{"Bearer good"}, Headers: []string{a}, Body: &a}, ofToken, "", false},
		{"a token of another tenant than the header's", identity.Proofs{Peer: nobody, Tokens: []string{"Bearer good"}, Headers: []string{b}}, solo.Principal{}, solo.CodePermissionDenied, false},
		{"a token of another tenant than the body's", identity.Proofs{Peer: operator, Tokens: []string{"Bearer good"}, Body: &b}, solo.Principal{}, solo.CodePermissionDenied, false},
		{"a token binds an operator", identity.Proofs{Peer: operator, Tokens: []string{"Bearer good"}}, ofToken, "", false},
		{"two tokens", identity.Proofs{Peer: nobody, Tokens: []string{"Bearer good", "Bearer good"}}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"another scheme", identity.Proofs{Peer: nobody, Tokens: []string{"Basic good"}}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"a token without its scheme", identity.Proofs{Peer: nobody, Tokens: []string{"good"}}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"an empty Authorization", identity.Proofs{Peer: operator, Tokens: []string{""}}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"a header where a capability is required", identity.Proofs{Peer: nobody, Headers: []string{a}}, solo.Principal{}, solo.CodeUnauthenticated, true},
		{"a body where a capability is required", identity.Proofs{Peer: nobody, Body: &a}, solo.Principal{}, solo.CodeUnauthenticated, true},
		{"a token where a capability is required", identity.Proofs{Peer: nobody, Tokens: []string{"Bearer good"}}, ofToken, "", true},
		{"an operator where a capability is required", identity.Proofs{Peer: operator, Headers: []string{a}}, solo.Principal{Tenant: a, Operator: true, Proof: "peer"}, "", true},
		{"nothing", identity.Proofs{Peer: nobody}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"another user on the socket", identity.Proofs{Peer: identity.Peer{UID: 12345}}, solo.Principal{}, solo.CodeUnauthenticated, false},
		{"a header", identity.Proofs{Peer: nobody, Headers: []string{a}}, solo.Principal{Tenant: a, Proof: "header"}, "", false},
		{"a body", identity.Proofs{Peer: nobody, Body: &a}, solo.Principal{Tenant: a, Proof: "body"}, "", false},
		{"header and body agree", identity.Proofs{Peer: nobody, Headers: []string{a}, Body: &a}, solo.Principal{Tenant: a, Proof: "header"}, "", false},
		{"header and body disagree", identity.Proofs{Peer: nobody, Headers: []string{a}, Body: &b}, solo.Principal{}, solo.CodePermissionDenied, false},
		{"two headers disagree", identity.Proofs{Peer: nobody, Headers: []string{a, b}}, solo.Principal{}, solo.CodePermissionDenied, false},
		{"a bad header", identity.Proofs{Peer: nobody, Headers: []string{bad}}, solo.Principal{}, solo.CodeInvalidRequest, false},
		{"an empty header", identity.Proofs{Peer: nobody, Headers: []string{""}}, solo.Principal{}, solo.CodeInvalidRequest, false},
		{"a bad body", identity.Proofs{Peer: nobody, Body: &bad}, solo.Principal{}, solo.CodeInvalidRequest, false},
		{"an operator", identity.Proofs{Peer: operator}, solo.Principal{Operator: true, Proof: "peer"}, "", false},
		{"an operator for a tenant", identity.Proofs{Peer: operator, Headers: []string{a}}, solo.Principal{Tenant: a, Operator: true, Proof: "peer"}, "", false},
		{"an operator who disagrees", identity.Proofs{Peer: operator, Headers: []string{a}, Body: &b}, solo.Principal{}, solo.CodePermissionDenied, false},
		{"a token binds", identity.Proofs{Peer: operator, Tokens: []string{"Bearer x"}, Headers: []string{a}}, solo.Principal{}, solo.CodeUnauthenticated, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := identity.Policy{Token: token, RequireCapability: tc.require}.Resolve(tc.proofs)
			if got != tc.want || solo.CodeOf(err) != tc.code {
				t.Errorf("Resolve = %+v, %v; want %+v, %q", got, err, tc.want, tc.code)
			}
			if err != nil && strings.Contains(err.Error(), "Bearer x") {
				t.Error("the error holds the token")
			}
		})
	}
}

func TestPeerOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for network, addr := range map[string]string{"unix": path, "tcp": "127.0.0.1:0"} {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		want := -1
		if network == "unix" {
			want = os.Geteuid()
		}
		if got := identity.PeerOf(server); got.UID != want || got.Operator() != (network == "unix") {
			t.Errorf("over %s the peer is %+v, operator %v", network, got, got.Operator())
		}
	}
}
