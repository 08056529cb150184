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
	for _, tc := range []struct {
		name   string
		proofs identity.Proofs
		want   solo.Principal
		code   solo.Code
	}{
		{"nothing", identity.Proofs{Peer: nobody}, solo.Principal{}, solo.CodeUnauthenticated},
		{"another user on the socket", identity.Proofs{Peer: identity.Peer{UID: 12345}}, solo.Principal{}, solo.CodeUnauthenticated},
		{"a header", identity.Proofs{Peer: nobody, Headers: []string{a}}, solo.Principal{Tenant: a, Proof: "header"}, ""},
		{"a body", identity.Proofs{Peer: nobody, Body: &a}, solo.Principal{Tenant: a, Proof: "body"}, ""},
		{"header and body agree", identity.Proofs{Peer: nobody, Headers: []string{a}, Body: &a}, solo.Principal{Tenant: a, Proof: "header"}, ""},
		{"header and body disagree", identity.Proofs{Peer: nobody, Headers: []string{a}, Body: &b}, solo.Principal{}, solo.CodePermissionDenied},
		{"two headers disagree", identity.Proofs{Peer: nobody, Headers: []string{a, b}}, solo.Principal{}, solo.CodePermissionDenied},
		{"a bad header", identity.Proofs{Peer: nobody, Headers: []string{bad}}, solo.Principal{}, solo.CodeInvalidRequest},
		{"an empty header", identity.Proofs{Peer: nobody, Headers: []string{""}}, solo.Principal{}, solo.CodeInvalidRequest},
		{"a bad body", identity.Proofs{Peer: nobody, Body: &bad}, solo.Principal{}, solo.CodeInvalidRequest},
		{"an operator", identity.Proofs{Peer: operator}, solo.Principal{Operator: true, Proof: "peer"}, ""},
		{"an operator for a tenant", identity.Proofs{Peer: operator, Headers: []string{a}}, solo.Principal{Tenant: a, Operator: true, Proof: "peer"}, ""},
		{"an operator who disagrees", identity.Proofs{Peer: operator, Headers: []string{a}, Body: &b}, solo.Principal{}, solo.CodePermissionDenied},
		{"a token binds", identity.Proofs{Peer: operator, Tokens: []string{"Bearer x"}, Headers: []string{a}}, solo.Principal{}, solo.CodeUnauthenticated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := identity.Resolve(tc.proofs)
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
