// Package identity tells who is calling.
//
// The nouns: a proof is what a caller shows: the kernel's word about the peer of a
// unix socket, a token, a header, the body of a deploy; a principal is who that
// makes it.
//
// What it promises: proofs count in the order of the contract, section 4; two that
// name different tenants are refused; a token that is shown always binds; and
// nothing is believed that was not checked.
package identity

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/solo"
)

// Peer is who is at the other end of a connection, as the kernel tells.
type Peer struct {
	// UID is that of the process that connected to a unix socket, -1 where the
	// kernel does not tell.
	UID int
}

// Operator reports whether the peer runs the daemon: root, or the daemon's own
// user, on the unix socket.
func (p Peer) Operator() bool { return p.UID == 0 || p.UID >= 0 && p.UID == os.Geteuid() }

// PeerOf asks the kernel who connected. Ask once for each connection.
func PeerOf(conn net.Conn) Peer {
	none := Peer{UID: -1}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return none
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return none
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || failed != nil {
		return none
	}
	return Peer{UID: int(cred.Uid)}
}

// Proofs is all that a caller shows.
type Proofs struct {
	Peer Peer
	// Tokens are the credentials of Authorization headers, whatever their scheme.
	Tokens []string
	// Headers are the values of X-Tenant-ID.
	Headers []string
	// Body is tenant_id of a deploy's body, nil where there is none.
	Body *string
}

// What a principal's Proof says.
const (
	ProofPeer       = "peer"
	ProofCapability = "capability"
	ProofHeader     = "header"
	ProofBody       = "body"
)

// Policy says what counts as a proof.
type Policy struct {
	// Token returns who holds a capability; its errors are unauthenticated, and
	// whatever else keeps the token from being used now.
	Token func(token string) (solo.Principal, error)
	// RequireCapability has a tenant's name prove nothing by itself.
	RequireCapability bool
}

// Resolve makes a principal of the proofs. The error is unauthenticated without a
// proof, permission_denied where two disagree, invalid_request for a name that is
// none, or that of the token.
func (pol Policy) Resolve(p Proofs) (solo.Principal, error) {
	named, proof, err := p.names()
	if err != nil {
		return solo.Principal{}, err
	}
	if len(p.Tokens) > 0 {
		return pol.token(p.Tokens, named)
	}
	switch {
	case p.Peer.Operator():
		return solo.Principal{Tenant: named, Operator: true, Proof: ProofPeer}, nil
	case pol.RequireCapability:
		return solo.Principal{}, solo.Errorf(solo.CodeUnauthenticated, "this daemon wants a capability: show its token in Authorization: Bearer")
	case named == "":
		return solo.Principal{}, solo.Errorf(solo.CodeUnauthenticated, "the request does not say who is calling: name the tenant in X-Tenant-ID")
	}
	return solo.Principal{Tenant: named, Proof: proof}, nil
}

// token is for who shows one: it binds, whatever else is shown.
func (pol Policy) token(shown []string, named string) (solo.Principal, error) {
	scheme, text, _ := strings.Cut(shown[0], " ")
	if len(shown) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return solo.Principal{}, solo.Errorf(solo.CodeUnauthenticated, "the Authorization header must be one, and of the form Bearer TOKEN")
	}
	who, err := pol.Token(strings.TrimLeft(text, " "))
	if err != nil {
		return solo.Principal{}, err
	}
	if named != "" && named != who.Tenant {
		return solo.Principal{}, solo.Errorf(solo.CodePermissionDenied, "the request names another tenant than its token")
	}
	who.Proof = ProofCapability
	return who, nil
}

// names returns the tenant that header and body name, "" for none, and by which.
func (p Proofs) names() (tenant, proof string, err error) {
	name := func(value, by, field string) error {
		if err := solo.CheckID(value); err != nil {
			return solo.InvalidFields(solo.Field{Field: field, Message: err.Error()})
		}
		if tenant != "" && tenant != value {
			return solo.Errorf(solo.CodePermissionDenied, "the request names two tenants")
		}
		if tenant == "" {
			tenant, proof = value, by
		}
		return nil
	}
	for _, h := range p.Headers {
		if err := name(h, ProofHeader, "X-Tenant-ID"); err != nil {
			return "", "", err
		}
	}
	if p.Body != nil {
		if err := name(*p.Body, ProofBody, "tenant_id"); err != nil {
			return "", "", err
		}
	}
	return tenant, proof, nil
}

// Caller is how a principal is named to a service that it calls.
func Caller(p solo.Principal) string {
	if p.Operator {
		return "operator"
	}
	return fmt.Sprintf("tenant:%s", p.Tenant)
}
