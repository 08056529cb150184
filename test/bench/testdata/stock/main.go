// Stock is a service on go-plugin's own terms, for comparison.
package main

import (
	"context"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/solo-run/solo/sdk/wire"
)

const changed = 0

type service struct{ plugin.Plugin }

func (service) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }
func (service) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

func main() {
	_ = changed
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: wire.Version, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		Plugins:         plugin.PluginSet{"service": service{}},
		GRPCServer:      plugin.DefaultGRPCServer,
	})
}
