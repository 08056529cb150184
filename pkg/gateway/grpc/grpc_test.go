package grpc

import (
	"errors"
	"testing"

	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

func TestEveryCodeHasItsStatus(t *testing.T) {
	for _, code := range solo.Codes() {
		want, ok := canonical[code]
		if !ok || want == codes.OK {
			t.Errorf("%s has no status", code)
		}
		err := statusOf(solo.Errorf(code, "why").With("a", []string{"b"}).Because(errInside))
		if got := status.Convert(err); got.Code() != want || got.Message() != "why" || len(got.Details()) < 2 {
			t.Errorf("%s: %v %v", code, got, got.Details())
		}
	}
	if len(canonical) != len(solo.Codes()) {
		t.Errorf("the table has %d codes, there are %d", len(canonical), len(solo.Codes()))
	}
	if got := status.Convert(statusOf(errInside)); got.Code() != codes.Internal || got.Message() == errInside.Error() {
		t.Errorf("an unknown error: %v", got)
	}
}

var errInside = errors.New("a secret of the inside")

// The rows of the table that name an rpc are the methods of the service.
func TestTheTableIsTheService(t *testing.T) {
	s := New(Config{})
	methods := map[string]bool{}
	for _, desc := range []rpc.ServiceDesc{solov1.Solo_ServiceDesc, solov1.Vault_ServiceDesc, solov1.Capabilities_ServiceDesc} {
		for _, m := range desc.Methods {
			methods["/"+desc.ServiceName+"/"+m.MethodName] = true
		}
		for _, m := range desc.Streams {
			methods["/"+desc.ServiceName+"/"+m.StreamName] = true
		}
	}
	for name := range s.ops {
		if !methods[name] {
			t.Errorf("the proto has no %s", name)
		}
		delete(methods, name)
	}
	for name := range methods {
		t.Errorf("the table has no %s", name)
	}
}
