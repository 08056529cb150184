package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/sdk/wire"
)

// Output takes the lines of an instance. stream is stdout, stderr or log (what
// Host.Log was given); level is debug, info, warn or error. It must not block for
// long: while it does, so does the service.
type Output interface {
	Line(stream, level string, line []byte, truncated bool)
}

// Spec is what to run.
type Spec struct {
	Key               solo.Key
	Instance, Version int
	// Binary is the artifact's file.
	Binary string
	Limits solo.Limits
	// Env joins the environment of the contract, section 7.
	Env map[string]string
	// StartTimeout is from the start of the process until it has proved that it
	// serves.
	StartTimeout time.Duration
	Output       Output
	// Host answers what the service asks of solod; nil refuses all but the log.
	Host Host
}

// Host answers what a service asks of solod. The error is a *[solo.Error].
type Host func(ctx context.Context, call HostCall) (*HostReply, error)

// HostCall is one question of a service. Its socket says which service asks.
type HostCall struct {
	// Op is what is asked for: secret, call or emit.
	Op   string
	Args map[string]string
	Body []byte
	// ContentType is that of the body.
	ContentType string
}

// HostReply is the answer.
type HostReply struct {
	Values      map[string]string
	Body        []byte
	ContentType string
}

// What a service can make solod hold of its questions.
const (
	maxHostBody  = 1 << 20
	maxHostConns = 64
)

// StartError is a start that failed, with how its process ended.
type StartError struct {
	Exit solo.Exit
}

func (e *StartError) Error() string { return "the instance did not start: " + string(e.Exit.Reason) }

// Launcher starts instances in a sandbox.
type Launcher struct {
	host *sandbox.Host
	// isolation is what every instance here is told to have.
	isolation map[string]string
}

// New returns a launcher over a host, which has to run.
func New(host *sandbox.Host) *Launcher {
	l := &Launcher{host: host, isolation: map[string]string{}}
	for name, layer := range host.Layers() {
		l.isolation[name] = "off"
		if layer.On {
			l.isolation[name] = "on"
		}
	}
	return l
}

// Start runs the spec's process and returns it once it serves. The error is a
// *[StartError] where the process is to blame. When ctx ends, so does the start.
func (l *Launcher) Start(ctx context.Context, spec Spec) (*Instance, error) {
	i := &Instance{
		spec: spec, launcher: l, began: time.Now(), done: make(chan struct{}),
		name: fmt.Sprintf("i-%s-%d", spec.Key.Digest()[:16], spec.Instance),
		tail: &tail{},
	}
	ctx, cancel := context.WithDeadline(ctx, i.began.Add(spec.StartTimeout))
	defer cancel()
	dir, err := l.host.MakeDir(i.name)
	if err != nil {
		return nil, solo.Internal(err)
	}
	if err := i.start(ctx, dir); err != nil {
		if i.proc == nil {
			if i.host != nil {
				i.host.close()
			}
			if rerr := l.host.RemoveDir(i.name); rerr != nil {
				err = errors.Join(err, rerr)
			}
			return nil, startRefused(ctx, err)
		}
		i.want(reasonOf(ctx))
		i.kill()
		<-i.done
		exit := i.Exit()
		if exit.Reason == solo.ReasonStartTimeout || exit.Reason == solo.ReasonKilled {
			exit.Details["step"] = i.step
			if i.step == stepHandshake {
				exit.Details["hint"] = "the process did not come to call sdk.Serve"
			}
		}
		return nil, &StartError{Exit: exit}
	}
	return i, nil
}

// startRefused is a process that could not even be started.
func startRefused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &StartError{Exit: solo.Exit{
			Reason: reasonOf(ctx), At: time.Now().UTC(), LogTail: []string{}, Details: map[string]any{"step": stepFork},
		}}
	}
	return solo.Internal(err)
}

// reasonOf tells a start that ran out of time from one that was called off.
func reasonOf(ctx context.Context) solo.Reason {
	if errors.Is(ctx.Err(), context.Canceled) {
		return solo.ReasonKilled
	}
	return solo.ReasonStartTimeout
}

// The steps of a start, as details.step of one that failed names them.
const (
	stepFork      = "fork"
	stepHandshake = "handshake"
	stepConnect   = "connect"
	stepStart     = "start"
)

// start takes the steps to a process that serves; i.step names the one it is at.
func (i *Instance) start(ctx context.Context, dir string) error {
	i.step = stepHandshake
	timeout := max(time.Until(i.began.Add(i.spec.StartTimeout)), time.Millisecond)
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: wire.Version, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		Plugins:          plugin.PluginSet{},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     timeout,
		SkipHostEnv:      true,
		// Off, and not a null logger: go-plugin parses every line for the latter.
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard}),
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (runner.Runner, error) {
			return &handshaker{instance: i, ctx: ctx, dir: dir, env: cmd.Env, socketDir: socketDir}, nil
		},
	})
	// go-plugin's Start knows no context: the end of the process is what ends it.
	stop := context.AfterFunc(ctx, func() {
		if i.started.Load() {
			i.want(reasonOf(ctx))
			i.kill()
		}
	})
	defer stop()
	addr, err := client.Start()
	if err != nil {
		return err
	}
	i.step = stepConnect
	i.addr = addr.String()
	i.client = wire.NewClient(func(ctx context.Context) (*wire.Conn, error) { return i.dial(ctx, i.addr) })
	i.step = stepStart
	reply, err := i.client.Call(ctx, &wire.Head{Kind: wire.KindStart, TimeoutMS: millis(ctx)}, nil, 0)
	if err != nil {
		// A process that ends during its Start tells by its exit.
		select {
		case <-i.done:
		case <-ctx.Done():
		case <-time.After(exitGrace):
		}
		return err
	}
	if reply.Code != "" {
		return errors.New(reply.Message)
	}
	return nil
}

// exitGrace is how long the end of a process may come after the end of its
// connections.
const exitGrace = time.Second

// millis is what is left of ctx, for a head.
func millis(ctx context.Context) uint32 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return uint32(max(1, min(time.Until(deadline).Milliseconds(), 1<<31)))
}

// dial connects to the process's own socket and checks that it is the process
// who listens there.
func (i *Instance) dial(ctx context.Context, path string) (*wire.Conn, error) {
	conn, err := wire.DialUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	cred, err := wire.PeerCred(conn)
	if err == nil && (cred.PID != i.proc.PID() || cred.UID != i.uid()) {
		err = fmt.Errorf("another process listens on the socket of %s", i.name)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// uid is the user that the process has.
func (i *Instance) uid() int {
	if uid := i.proc.UID(); uid >= 0 {
		return uid
	}
	return os.Geteuid()
}

// handshaker is go-plugin's view of an instance: it starts the process, hands over
// the one line of the handshake, and pins the socket to the instance's directory.
type handshaker struct {
	instance  *Instance
	ctx       context.Context
	dir       string
	env       []string
	socketDir string
	line      *io.PipeReader
}

func (h *handshaker) Start(context.Context) error {
	i := h.instance
	work, tmp := filepath.Join(h.dir, "work"), filepath.Join(h.dir, "tmp")
	for _, dir := range []string{work, tmp} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make the directories of an instance: %w", err)
		}
	}
	if err := i.listen(h.socketDir); err != nil {
		return err
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer out.Close()
	stderr, errs, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer errs.Close()
	s := &i.spec
	memory := int64(s.Limits.MemoryMB) << 20
	proc, err := i.launcher.host.Start(h.ctx, sandbox.Command{
		Name: i.name, Path: s.Binary, Args: []string{s.Key.Service}, Env: h.environment(tmp),
		Dir: work, Stdout: out, Stderr: errs, OwnDirs: []string{work, tmp, h.socketDir},
		Limits: sandbox.Limits{MemoryBytes: memory, CPUPercent: s.Limits.CPUPercent, PIDs: s.Limits.PIDs},
	})
	if err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	i.proc = proc
	i.at = time.Now()
	i.started.Store(true)
	var line *io.PipeWriter
	h.line, line = io.Pipe()
	i.watch(stdout, stderr, line, wire.Handshake(filepath.Join(h.socketDir, wire.SocketName)))
	// If ctx ended before there was a process to end, this is who sees it.
	return h.ctx.Err()
}

// environment is all that the process's environment holds.
func (h *handshaker) environment(tmp string) []string {
	s := &h.instance.spec
	env := append([]string{
		"SOLO_TENANT=" + s.Key.Tenant,
		"SOLO_SERVICE=" + s.Key.Service,
		"SOLO_VERSION=" + strconv.Itoa(s.Version),
		"SOLO_INSTANCE=" + strconv.Itoa(s.Instance),
		"TMPDIR=" + tmp,
		"GOMAXPROCS=" + strconv.Itoa(sandbox.GoMaxProcs(s.Limits.CPUPercent)),
		"GOMEMLIMIT=" + strconv.FormatInt(sandbox.GoMemLimit(int64(s.Limits.MemoryMB)<<20), 10),
	}, h.env...)
	for k, v := range s.Env {
		env = append(env, k+"="+v)
	}
	return env
}

func (h *handshaker) Stdout() io.ReadCloser { return h.line }

// Stderr is empty: what the process prints there is never go-plugin's to read.
func (h *handshaker) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (h *handshaker) Name() string { return h.instance.name }

func (h *handshaker) ID() string {
	if h.instance.proc == nil {
		return ""
	}
	return strconv.Itoa(h.instance.proc.PID())
}

func (h *handshaker) Diagnose(context.Context) string { return "" }

func (h *handshaker) Wait(context.Context) error {
	<-h.instance.done
	return nil
}

// Kill is go-plugin's when the handshake failed.
func (h *handshaker) Kill(context.Context) error {
	h.instance.want(solo.ReasonStartTimeout)
	h.instance.kill()
	return nil
}

// PluginToHost takes only the socket that the instance was told to make.
func (h *handshaker) PluginToHost(network, addr string) (string, string, error) {
	want := filepath.Join(h.socketDir, wire.SocketName)
	if network != "unix" || addr != want {
		return "", "", fmt.Errorf("the process says that it listens on %s %s, and not on its own socket", network, addr)
	}
	info, err := os.Lstat(addr)
	if err != nil {
		return "", "", fmt.Errorf("the process does not listen: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return "", "", errors.New("the process's socket is not a socket")
	}
	return network, addr, nil
}

func (h *handshaker) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// listen makes the socket for the service's calls to its host. The directory is
// the instance's alone, so its socket is its identity; the kernel confirms it.
func (i *Instance) listen(socketDir string) error {
	l, err := wire.ListenUnix(filepath.Join(socketDir, wire.HostSocketName), 0o666)
	if err != nil {
		return fmt.Errorf("cannot make the host socket: %w", err)
	}
	i.socketDir = socketDir
	i.serveHost(l)
	return nil
}

// serveHost answers the service's calls to its host.
func (i *Instance) serveHost(l *wire.Listener) {
	i.host = &hostSocket{listener: l, server: &wire.Server{
		Handler: i.hostCall, MaxBody: maxHostBody, MaxConns: maxHostConns,
		Allow: func(c wire.Cred) bool { return i.started.Load() && c.UID == i.uid() },
	}}
	i.host.wait.Go(func() { i.host.server.Serve(l) })
}

// hostCall answers what a service asks of its host.
func (i *Instance) hostCall(ctx context.Context, head *wire.Head, body []byte) *wire.Reply {
	switch {
	case head.Kind == wire.KindHost && i.spec.Host != nil:
		return i.answerHost(ctx, head, body)
	case head.Kind != wire.KindLog:
		return &wire.Reply{Code: string(solo.CodeInvalidRequest), Message: "this solod does not know this kind of call"}
	case len(body) > maxLine:
		return &wire.Reply{Code: string(solo.CodeTooLarge), Message: "a line of the log is larger than 64 KiB"}
	}
	level := head.Method
	switch level {
	case "debug", "info", "warn", "error":
	default:
		level = "info"
	}
	i.line("log", level, body, false)
	return &wire.Reply{}
}

// answerHost passes a question on, and words its refusal.
func (i *Instance) answerHost(ctx context.Context, head *wire.Head, body []byte) *wire.Reply {
	reply, err := i.spec.Host(ctx, HostCall{Op: head.Method, Args: head.Metadata, Body: body, ContentType: head.ContentType})
	if err != nil {
		e := solo.AsError(err)
		return &wire.Reply{Code: string(e.Code), Message: e.Message}
	}
	return &wire.Reply{Body: reply.Body, ContentType: reply.ContentType, Metadata: reply.Values}
}

var _ runner.Runner = (*handshaker)(nil)
