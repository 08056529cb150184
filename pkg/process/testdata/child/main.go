// Child is the program of the process tests: $MODE says how it behaves.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/solo-run/solo/sdk"
)

type child struct{ sdk.Methods }

func (child) Start(ctx context.Context, host sdk.Host) error {
	switch os.Getenv("MODE") {
	case "start fails":
		return errors.New("nothing to start with")
	case "start hangs":
		<-ctx.Done()
		time.Sleep(time.Hour)
	}
	return nil
}

func (child) Stop(ctx context.Context) error {
	sdk.HostFrom(ctx).Log("info", "stopping")
	if os.Getenv("MODE") == "stubborn" {
		select {}
	}
	return nil
}

func main() {
	switch os.Getenv("MODE") {
	case "exit 3":
		fmt.Fprintln(os.Stderr, "cannot go on")
		os.Exit(3)
	case "exit 0":
		os.Exit(0)
	case "panic":
		panic("at once")
	case "silent":
		time.Sleep(time.Hour)
	case "lies":
		fmt.Println("1|1|unix|/run/other.sock|grpc")
		time.Sleep(time.Hour)
	case "orphans":
		for range 3 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "MODE=silent")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				panic(err)
			}
			fmt.Println("forked", cmd.Process.Pid)
		}
		os.Exit(4)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	}
	sdk.Serve(child{sdk.Methods{
		"world": sdk.HandlerFunc(world),
		"die": sdk.HandlerFunc(func(context.Context, *sdk.Request) (*sdk.Response, error) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}),
		"exit": sdk.HandlerFunc(func(context.Context, *sdk.Request) (*sdk.Response, error) {
			for i := range 100 {
				fmt.Println("last line", i)
			}
			os.Exit(7)
			return nil, nil
		}),
		"big": sdk.HandlerFunc(func(context.Context, *sdk.Request) (*sdk.Response, error) {
			return &sdk.Response{Body: make([]byte, 9<<20)}, nil
		}),
		"hang": sdk.HandlerFunc(func(ctx context.Context, _ *sdk.Request) (*sdk.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
	}})
}

// world tells all that the process can see of its surroundings.
func world(context.Context, *sdk.Request) (*sdk.Response, error) {
	var out []string
	for _, kv := range os.Environ() {
		out = append(out, "env "+kv)
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue // the directory's own, closed again
		}
		kind, _, _ := strings.Cut(target, ":")
		out = append(out, "fd "+fd.Name()+" "+kind)
	}
	dir, _ := os.Getwd()
	entries, _ := os.ReadDir(".")
	out = append(out, fmt.Sprintf("dir %s %d", filepath.Base(dir), len(entries)), fmt.Sprintf("uid %d", os.Getuid()))
	sort.Strings(out)
	return &sdk.Response{Body: []byte(strings.Join(out, "\n"))}, nil
}
