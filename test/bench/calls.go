package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/wire"
)

const callers = 64

// rate runs f from 64 goroutines and returns the time of one call.
func rate(f func() error) (time.Duration, error) {
	const calls = 20000
	var left atomic.Int64
	left.Store(calls)
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	began := time.Now()
	for range callers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(); err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return 0, *err
	}
	return time.Since(began) / calls, nil
}

// raw passes bytes through grpc as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "raw" }

// frames: a call over the wire against a unary call of grpc-go, both over a unix
// socket, 1 KiB.
func (b *bench) frames() error {
	path := filepath.Join(b.dir, "w.sock")
	l, err := wire.ListenUnix(path, 0o600)
	if err != nil {
		return err
	}
	defer l.Close()
	s := &wire.Server{Handler: func(_ context.Context, _ *wire.Head, body []byte) *wire.Reply { return &wire.Reply{Body: body} }}
	go s.Serve(l)
	defer s.Close()
	w := wire.NewClient(func(ctx context.Context) (*wire.Conn, error) { return wire.DialUnix(ctx, path) })
	defer w.Close()

	gl, err := net.Listen("unix", filepath.Join(b.dir, "g.sock"))
	if err != nil {
		return err
	}
	g := echoServer()
	go g.Serve(gl)
	defer g.Stop()
	conn, err := rpc.NewClient("unix:"+filepath.Join(b.dir, "g.sock"), rpc.WithTransportCredentials(insecure.NewCredentials()), rpc.WithDefaultCallOptions(rpc.ForceCodec(raw{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	body := make([]byte, 1024)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	return b.pair("a frames call / a unary call of grpc-go, time of one at 64 callers", "≤ 0.40", func() (time.Duration, error) {
		return rate(func() error {
			_, err := w.Call(ctx, &wire.Head{Kind: wire.KindCall, Method: "m"}, body, wire.MaxBody)
			return err
		})
	}, func() (time.Duration, error) {
		return rate(func() error {
			var out []byte
			return conn.Invoke(ctx, "/s/m", &body, &out)
		})
	})
}

// serveEcho is the yardstick of invokes.
func serveEcho() error {
	e := echo.New()
	e.POST("/echo", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		return c.Blob(http.StatusOK, "application/octet-stream", body)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go echoServer().Serve(gl)
	fmt.Println(l.Addr(), gl.Addr())
	return http.Serve(l, e)
}

// echoServer answers any unary call with its own bytes.
func echoServer() *rpc.Server {
	return rpc.NewServer(rpc.ForceServerCodec(raw{}), rpc.UnknownServiceHandler(func(_ any, st rpc.ServerStream) error {
		var m []byte
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		return st.SendMsg(&m)
	}))
}

// invokes: a call through REST, engine and wire into a service's process, against
// a bare echo handler.
func (b *bench) invokes() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-echo")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var addr, grpcAddr string
	if _, err := fmt.Fscanln(stdout, &addr, &grpcAddr); err != nil {
		return err
	}
	body := strings.Repeat("x", 1024)
	post := func(url string) func() error {
		return func() error {
			req, err := http.NewRequest("POST", url, strings.NewReader(body))
			if err != nil {
				return err
			}
			req.Header.Set("X-Tenant-ID", "bench")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(len(body)) {
				return fmt.Errorf("%s: %d bytes, %v", resp.Status, n, err)
			}
			return nil
		}
	}
	invoke, bare := post(b.d.URL+"/services/known/invoke/x"), post("http://"+addr+"/echo")
	err = b.pair("REST invoke / bare echo handler in a process of its own, time of one at 64 callers", "≤ 1.92", func() (time.Duration, error) { return rate(invoke) }, func() (time.Duration, error) { return rate(bare) })
	if err != nil {
		return err
	}
	one := func(f func() error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			times := make([]time.Duration, 500)
			for i := range times {
				var err error
				if times[i], err = timed(f); err != nil {
					return 0, err
				}
			}
			slices.Sort(times)
			return times[len(times)/2], nil
		}
	}
	if err := b.pair("REST invoke / bare echo handler in a process of its own, p50 at one caller", "≤ 1.9", one(invoke), one(bare)); err != nil {
		return err
	}
	dial := func(addr string, opts ...rpc.CallOption) (*rpc.ClientConn, error) {
		return rpc.NewClient(addr, rpc.WithTransportCredentials(insecure.NewCredentials()), rpc.WithDefaultCallOptions(opts...))
	}
	own, err := dial(strings.TrimPrefix(b.d.GRPC, "grpc://"))
	if err != nil {
		return err
	}
	defer own.Close()
	yard, err := dial(grpcAddr, rpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	defer yard.Close()
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant-id", "bench")
	c := solov1.NewSoloClient(own)
	payload := []byte(body)
	return b.pair("gRPC invoke / bare grpc-go echo in a process of its own, time of one at 64 callers", "≤ 1.54", func() (time.Duration, error) {
		return rate(func() error {
			_, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "known", Method: "x", Body: payload})
			return err
		})
	}, func() (time.Duration, error) {
		return rate(func() error {
			var out []byte
			return yard.Invoke(ctx, "/s/m", &payload, &out)
		})
	})
}
