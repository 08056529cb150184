package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

func (a *app) deployCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "deploy PATH",
		Short: "Compile a source and run it as a service",
		Long: `Compile a source, test it, start it confined and supervised, and answer once it
serves.

PATH is a .go file, a .txtar archive, a directory, or - for either text on
stdin. Of a directory, names that begin with . or _ and what .gitignore names
are left out; a link is refused. The service's id is PATH's base name.`,
		Example: "  solo deploy ./echo\n  solo deploy hello.go --id greeter\n  generate | solo deploy - --id generated",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, src, err := a.source(cmd, args[0], id)
			if err != nil {
				return err
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			var svc *solov1.Service
			err = a.waiting("deploying "+req.GetServiceId(), func() error {
				svc, err = c.Deploy(cmd.Context(), req)
				return err
			})
			if err != nil {
				return deployError(src, req.GetServiceId(), err)
			}
			a.diagnostics(src, svc.GetBuild().GetWarnings(), "warning: ")
			return a.print(func(w io.Writer) { serviceTable(w, svc) })
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "id of the service (default: PATH's base name)")
	return cmd
}

// deployError gives a refusal its source, for the places in it.
func deployError(src *source, id string, err error) error {
	var refused *client.Error
	if !errors.As(err, &refused) {
		return err
	}
	return &sourceError{message: err.Error(), at: src, service: id, cause: err}
}

func (a *app) checkCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "check PATH",
		Short: "Compile and test a source, and say what a deploy of it would change",
		Long: `Compile, vet and test a source and show what a deploy of it would change. Nothing
is changed. The exit status is 3 where a deploy would be refused. PATH and --id
are as for deploy.`,
		Example: "  solo check ./echo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, src, err := a.source(cmd, args[0], id)
			if err != nil {
				return err
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			var result *solov1.CheckResult
			err = a.waiting("checking "+req.GetServiceId(), func() error {
				result, err = c.Check(cmd.Context(), req)
				return err
			})
			if err != nil {
				return deployError(src, req.GetServiceId(), err)
			}
			a.diagnostics(src, result.GetWarnings(), "warning: ")
			if err := a.print(func(w io.Writer) { changeTable(w, result.GetChanges()) }); err != nil {
				return err
			}
			if !result.GetOk() {
				return &sourceError{message: "a deploy of this source would be refused", at: src,
					diagnostics: append(result.GetDiagnostics(), result.GetFindings()...)}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "id of the service (default: PATH's base name)")
	return cmd
}

// source reads PATH into a request.
func (a *app) source(cmd *cobra.Command, path, id string) (*solov1.DeployRequest, *source, error) {
	if id == "" {
		var err error
		if id, err = idOf(path); err != nil {
			return nil, nil, &usageError{cause: err, command: cmd.CommandPath()}
		}
	}
	src, err := readSource(cmd.Context(), path, a.in)
	if err != nil {
		return nil, nil, err
	}
	return &solov1.DeployRequest{ServiceId: proto.String(id), Code: src.code, Files: src.files}, src, nil
}

// serviceCommand is a command about one service, whose answer is the service.
func (a *app) serviceCommand(cmd *cobra.Command, do func(*cobra.Command, *client.Client, string) (*solov1.Service, error)) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		svc, err := do(cmd, c, args[0])
		if err != nil {
			return err
		}
		return a.print(func(w io.Writer) { serviceTable(w, svc) })
	}
	return cmd
}

func (a *app) statusCommand() *cobra.Command {
	return a.serviceCommand(&cobra.Command{
		Use:     "status ID",
		Short:   "Show one service",
		Example: "  solo status echo",
	}, func(cmd *cobra.Command, c *client.Client, id string) (*solov1.Service, error) {
		return c.Status(cmd.Context(), id)
	})
}

func (a *app) restartCommand() *cobra.Command {
	return a.serviceCommand(&cobra.Command{
		Use:     "restart ID",
		Short:   "Restart a service at once, with a fresh budget and backoff",
		Example: "  solo restart echo",
	}, func(cmd *cobra.Command, c *client.Client, id string) (svc *solov1.Service, err error) {
		err = a.waiting("restarting "+id, func() error {
			svc, err = c.Restart(cmd.Context(), id)
			return err
		})
		return svc, err
	})
}

func (a *app) listCommand() *cobra.Command {
	req := &solov1.ListRequest{}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the services, oldest first",
		Example: "  solo list --state failed",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.List(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := a.print(func(w io.Writer) { listTable(w, list) }); err != nil {
				return err
			}
			if next := int(list.GetOffset()) + len(list.GetServices()); next < int(list.GetTotal()) {
				a.hint("%d of %d; more with --offset %d", len(list.GetServices()), list.GetTotal(), next)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&req.State, "state", "", "only those in this state")
	cmd.Flags().Int32Var(&req.Limit, "limit", 0, "at most so many, 1 to 1000 (default 100)")
	cmd.Flags().Int32Var(&req.Offset, "offset", 0, "leave out so many")
	return cmd
}

func (a *app) killCommand() *cobra.Command {
	req := &solov1.KillRequest{}
	var timeout int64
	cmd := &cobra.Command{
		Use:     "kill ID",
		Short:   "Stop a service and wait until its processes are gone",
		Example: "  solo kill echo --timeout-ms 500",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ServiceId = args[0]
			if cmd.Flags().Changed("timeout-ms") {
				req.TimeoutMs = &timeout
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			var result *solov1.KillResult
			err = a.waiting("stopping "+args[0], func() error {
				result, err = c.Kill(cmd.Context(), req)
				return err
			})
			if err != nil {
				return err
			}
			return a.print(func(w io.Writer) {
				table(w, []string{result.GetServiceId(), result.GetStatus()})
			})
		},
	}
	cmd.Flags().Int64Var(&timeout, "timeout-ms", 0, "from the request to stop until its group is killed (default: the service's own)")
	cmd.Flags().BoolVar(&req.Force, "force", false, "kill at once, without a request to stop")
	cmd.Flags().BoolVar(&req.Purge, "purge", false, "forget its versions, data and KV too")
	return cmd
}

func (a *app) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "health",
		Short:   "Show how the daemon is",
		Long:    "Show how the daemon is. The exit status is 1 where a part of it cannot serve.",
		Example: "  solo health",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			h, err := c.Health(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.print(func(w io.Writer) { healthTable(w, h) }); err != nil {
				return err
			}
			switch h.GetStatus() {
			case "ok", "starting", "degraded":
				return nil
			}
			return verdictError(fmt.Sprintf("the daemon is %s", h.GetStatus()))
		},
	}
}

func (a *app) shutdownCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "shutdown",
		Short:   "Stop the daemon and its services",
		Example: "  solo shutdown",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			result, err := c.Shutdown(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(func(w io.Writer) { table(w, []string{"solod", result.GetStatus()}) })
		},
	}
}

// version is set by the build.
var version string

// programVersion is the version of this build; of one that go install made, the
// module's.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		Example: "  solo version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if a.answer, err = json.Marshal(map[string]string{"version": programVersion(), "go": runtime.Version()}); err != nil {
				return err
			}
			return a.print(func(w io.Writer) { table(w, []string{"solo", programVersion(), runtime.Version()}) })
		},
	}
}
