package daemon

import (
	"context"

	"github.com/solo-run/solo/pkg/gateway/grpc"
	"github.com/solo-run/solo/pkg/gateway/rest"
)

// doors are the gateways as one part: a server serves once, so each run has new
// ones, at the addresses that the first was given.
type doors struct {
	rest rest.Config
	grpc grpc.Config
	// api and rpc listen already, for the next run; nil after it.
	api *rest.Server
	rpc *grpc.Server
}

// listen binds the addresses, so that a start that cannot fails at once.
func (d *doors) listen() error {
	api, rpc := rest.New(d.rest), grpc.New(d.grpc)
	if err := api.Listen(); err != nil {
		return err
	}
	if err := rpc.Listen(); err != nil {
		api.Close()
		return err
	}
	d.api, d.rpc = api, rpc
	// A port that was chosen freely stays.
	d.rest.Addr, d.grpc.Addr = api.Addr(), rpc.Addr()
	return nil
}

func (d *doors) run(ctx context.Context) error {
	if d.api == nil {
		if err := d.listen(); err != nil {
			return err
		}
	}
	api, rpc := d.api, d.rpc
	d.api, d.rpc = nil, nil
	return together(api.Run, rpc.Run)(ctx)
}
