package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/solo-run/solo/pkg/admission"
	"github.com/solo-run/solo/pkg/engine"
	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/vault"
)

// Config is what an operator decides: the keys of the contract, section 3. Those
// whose rooms this version has not built take their default and nothing else: a
// setting that does nothing would be worse than a refusal. [Load] fills it; every
// path in it is absolute then.
type Config struct {
	Solo      SoloConfig      `toml:"solo"`
	Limits    LimitsConfig    `toml:"limits"`
	Telemetry TelemetryConfig `toml:"telemetry"`
	Security  SecurityConfig  `toml:"security"`
	Vault     VaultConfig     `toml:"vault"`
	Build     BuildConfig     `toml:"build"`
	Egress    EgressConfig    `toml:"egress"`
	Events    EventsConfig    `toml:"events"`
	Versions  VersionsConfig  `toml:"versions"`
	Breaker   BreakerConfig   `toml:"breaker"`
	Database  DatabaseConfig  `toml:"database"`

	origins map[string]string
}

// SoloConfig is the daemon itself.
type SoloConfig struct {
	ListenPort int    `toml:"listen_port"`
	HTTPPort   int    `toml:"http_port"`
	ListenHost string `toml:"listen_host"`
	Socket     string `toml:"socket"`
	DataDir    string `toml:"data_dir"`
	MaxTenants int    `toml:"max_tenants"`
	LogLevel   string `toml:"log_level"`
	ShutdownS  int    `toml:"shutdown_s"`
}

// LimitsConfig bounds services: how many, what each gets, and the most that a
// deploy may ask for.
type LimitsConfig struct {
	MaxPerTenant int `toml:"max_per_tenant"`
	MaxTotal     int `toml:"max_total"`

	InflightPerTenant int `toml:"inflight_per_tenant"`
	InflightTotal     int `toml:"inflight_total"`

	MemoryMB   int `toml:"memory_mb"`
	CPUPercent int `toml:"cpu_percent"`
	PIDs       int `toml:"pids"`
	DataMB     int `toml:"data_mb"`
	LogMB      int `toml:"log_mb"`
	KVMB       int `toml:"kv_mb"`

	CeilingMemoryMB   int `toml:"ceiling_memory_mb"`
	CeilingCPUPercent int `toml:"ceiling_cpu_percent"`
	CeilingPIDs       int `toml:"ceiling_pids"`
	CeilingDataMB     int `toml:"ceiling_data_mb"`
	CeilingLogMB      int `toml:"ceiling_log_mb"`
	CeilingKVMB       int `toml:"ceiling_kv_mb"`

	TenantMemoryMB   int `toml:"tenant_memory_mb"`
	TenantCPUPercent int `toml:"tenant_cpu_percent"`
	TenantPIDs       int `toml:"tenant_pids"`
	TenantSecrets    int `toml:"tenant_secrets"`
	TenantStreams    int `toml:"tenant_streams"`
}

// TelemetryConfig is what the daemon tells of itself.
type TelemetryConfig struct {
	Enabled      bool   `toml:"enabled"`
	LogEvents    bool   `toml:"log_events"`
	OTLPEndpoint string `toml:"otlp_endpoint"`
}

// SecurityConfig is how strict the daemon is.
type SecurityConfig struct {
	RequireMTLS       bool   `toml:"require_mtls"`
	RequireCapability bool   `toml:"require_capability"`
	TLS               bool   `toml:"tls"`
	TLSCert           string `toml:"tls_cert"`
	TLSKey            string `toml:"tls_key"`
	ClientCA          string `toml:"client_ca"`
	RateLimit         int    `toml:"rate_limit_per_capability"`
	Isolation         string `toml:"isolation"`
}

// VaultConfig is where the vault's key comes from.
type VaultConfig struct {
	KeySource string `toml:"key_source"`
	KeyFile   string `toml:"key_file"`
}

// EgressConfig is what the daemon may fetch for services.
type EgressConfig struct {
	Allow []string `toml:"allow"`
}

// EventsConfig is how much of the log is kept; 0 is all.
type EventsConfig struct {
	KeepDays int `toml:"keep_days"`
	MaxMB    int `toml:"max_mb"`
}

// VersionsConfig is how many versions of a service are kept.
type VersionsConfig struct {
	Keep int `toml:"keep"`
}

// BreakerConfig is when calls of a service are refused for a while.
type BreakerConfig struct {
	Failures int `toml:"failures"`
	OpenMS   int `toml:"open_ms"`
}

// BuildConfig is the compiler and its bounds.
type BuildConfig struct {
	Go           string   `toml:"go"`
	TimeoutS     int      `toml:"timeout_s"`
	MemoryMB     int      `toml:"memory_mb"`
	Parallel     int      `toml:"parallel"`
	CacheDir     string   `toml:"cache_dir"`
	GoProxy      string   `toml:"goproxy"`
	AllowImports []string `toml:"allow_imports"`
	DenyImports  []string `toml:"deny_imports"`
	AllowBinary  bool     `toml:"allow_binary"`
}

// DatabaseConfig is where the bbolt files are.
type DatabaseConfig struct {
	EventsDB string `toml:"events_db"`
	VaultDB  string `toml:"vault_db"`
}

// Default is the configuration of a daemon that is told nothing.
func Default() *Config {
	l := solo.DefaultLimits()
	return &Config{
		Solo: SoloConfig{
			ListenPort: 50051, HTTPPort: 8080, ListenHost: "127.0.0.1", DataDir: "./data", MaxTenants: 100,
			LogLevel: "info", ShutdownS: 10,
		},
		Limits: LimitsConfig{
			MaxPerTenant: 100, MaxTotal: 1000, InflightPerTenant: 2048, InflightTotal: 4096,
			MemoryMB: l.MemoryMB, CPUPercent: l.CPUPercent, PIDs: l.PIDs, DataMB: l.DataMB, LogMB: l.LogMB, KVMB: l.KVMB,
		},
		Telemetry: TelemetryConfig{Enabled: true, LogEvents: true},
		Security:  SecurityConfig{RateLimit: 1000, Isolation: sandbox.IsolationAuto},
		Vault:     VaultConfig{KeySource: "file"},
		Egress:    EgressConfig{Allow: []string{}},
		Versions:  VersionsConfig{Keep: 50},
		Breaker:   BreakerConfig{Failures: 20, OpenMS: 5000},
		Build: BuildConfig{
			Go: "go", TimeoutS: 60, MemoryMB: 2048, Parallel: runtime.NumCPU(), GoProxy: "off",
			AllowImports: []string{}, DenyImports: []string{"os/exec", "plugin", "unsafe", "runtime/cgo", "C"},
		},
		Database: DatabaseConfig{EventsDB: "$data_dir/events", VaultDB: "$data_dir/vault"},
		origins:  map[string]string{},
	}
}

// setting is one key: where its value lives and which values it takes.
type setting struct {
	key   string
	value any
	// check says why the value will not do, "" if it does.
	check func() string
}

func within(v *int, lo, hi int) func() string {
	return func() string {
		if *v < lo || *v > hi {
			return fmt.Sprintf("must be from %d to %d, is %d", lo, hi, *v)
		}
		return ""
	}
}

func oneOf(v *string, words ...string) func() string {
	return func() string {
		for _, w := range words {
			if *v == w {
				return ""
			}
		}
		return fmt.Sprintf("must be %s or %s, is %q", strings.Join(words[:len(words)-1], ", "), words[len(words)-1], *v)
	}
}

func globs(v *[]string) func() string {
	return func() string {
		for _, g := range *v {
			if _, err := path.Match(g, ""); err != nil || g == "" {
				return fmt.Sprintf("%q is not a pattern of path.Match", g)
			}
		}
		return ""
	}
}

func anything() string { return "" }

// settings is the one table of keys, in the order of --print-config.
func (c *Config) settings() []setting {
	s, l, b := &c.Solo, &c.Limits, &c.Build
	notEmpty := func(v *string) func() string {
		return func() string {
			if *v == "" {
				return "must not be empty"
			}
			return ""
		}
	}
	sec, t := &c.Security, &c.Telemetry
	// A ceiling of 0 is four times the default, filled in after the checks.
	return []setting{
		{"solo.listen_port", &s.ListenPort, within(&s.ListenPort, 0, 65535)},
		{"solo.http_port", &s.HTTPPort, within(&s.HTTPPort, 0, 65535)},
		{"solo.listen_host", &s.ListenHost, func() string { return checkHost(s.ListenHost) }},
		{"solo.socket", &s.Socket, anything},
		{"solo.data_dir", &s.DataDir, notEmpty(&s.DataDir)},
		{"solo.max_tenants", &s.MaxTenants, within(&s.MaxTenants, 1, 1000000)},
		{"solo.log_level", &s.LogLevel, oneOf(&s.LogLevel, "debug", "info", "warn", "error")},
		{"solo.shutdown_s", &s.ShutdownS, within(&s.ShutdownS, 1, 3600)},
		{"limits.max_per_tenant", &l.MaxPerTenant, within(&l.MaxPerTenant, 1, 100000)},
		{"limits.max_total", &l.MaxTotal, within(&l.MaxTotal, 1, 100000)},
		{"limits.inflight_per_tenant", &l.InflightPerTenant, within(&l.InflightPerTenant, 1, 1<<20)},
		{"limits.inflight_total", &l.InflightTotal, within(&l.InflightTotal, 1, 1<<20)},
		{"limits.memory_mb", &l.MemoryMB, within(&l.MemoryMB, 8, 1<<30)},
		{"limits.cpu_percent", &l.CPUPercent, within(&l.CPUPercent, 1, 1<<20)},
		{"limits.pids", &l.PIDs, within(&l.PIDs, 8, 1<<22)},
		{"limits.data_mb", &l.DataMB, notBuilt(&l.DataMB, 0)},
		{"limits.log_mb", &l.LogMB, within(&l.LogMB, 1, 1<<20)},
		{"limits.kv_mb", &l.KVMB, notBuilt(&l.KVMB, solo.DefaultLimits().KVMB)},
		{"limits.ceiling_memory_mb", &l.CeilingMemoryMB, ceiling(&l.CeilingMemoryMB, &l.MemoryMB)},
		{"limits.ceiling_cpu_percent", &l.CeilingCPUPercent, ceiling(&l.CeilingCPUPercent, &l.CPUPercent)},
		{"limits.ceiling_pids", &l.CeilingPIDs, ceiling(&l.CeilingPIDs, &l.PIDs)},
		{"limits.ceiling_data_mb", &l.CeilingDataMB, notBuilt(&l.CeilingDataMB, 0)},
		{"limits.ceiling_log_mb", &l.CeilingLogMB, ceiling(&l.CeilingLogMB, &l.LogMB)},
		{"limits.ceiling_kv_mb", &l.CeilingKVMB, func() string {
			if l.CeilingKVMB == 0 {
				return ""
			}
			return notBuilt(&l.CeilingKVMB, 4*solo.DefaultLimits().KVMB)()
		}},
		{"limits.tenant_memory_mb", &l.TenantMemoryMB, notBuilt(&l.TenantMemoryMB, 0)},
		{"limits.tenant_cpu_percent", &l.TenantCPUPercent, notBuilt(&l.TenantCPUPercent, 0)},
		{"limits.tenant_pids", &l.TenantPIDs, notBuilt(&l.TenantPIDs, 0)},
		{"limits.tenant_secrets", &l.TenantSecrets, within(&l.TenantSecrets, 0, 1<<20)},
		{"limits.tenant_streams", &l.TenantStreams, notBuilt(&l.TenantStreams, 0)},
		{"telemetry.enabled", &t.Enabled, anything},
		{"telemetry.log_events", &t.LogEvents, anything},
		{"telemetry.otlp_endpoint", &t.OTLPEndpoint, notBuilt(&t.OTLPEndpoint, "")},
		{"security.require_mtls", &sec.RequireMTLS, notBuilt(&sec.RequireMTLS, false)},
		{"security.require_capability", &sec.RequireCapability, anything},
		{"security.tls", &sec.TLS, notBuilt(&sec.TLS, false)},
		{"security.tls_cert", &sec.TLSCert, notBuilt(&sec.TLSCert, "")},
		{"security.tls_key", &sec.TLSKey, notBuilt(&sec.TLSKey, "")},
		{"security.client_ca", &sec.ClientCA, notBuilt(&sec.ClientCA, "")},
		{"security.rate_limit_per_capability", &sec.RateLimit, within(&sec.RateLimit, 1, solo.MaxCapabilityRate)},
		{"security.isolation", &c.Security.Isolation, oneOf(&c.Security.Isolation, sandbox.IsolationStrict, sandbox.IsolationAuto, sandbox.IsolationNone)},
		{"vault.key_source", &c.Vault.KeySource, oneOf(&c.Vault.KeySource, vault.SourceFile, vault.SourceCredential, vault.SourcePassphrase)},
		{"vault.key_file", &c.Vault.KeyFile, anything},
		{"build.go", &b.Go, notEmpty(&b.Go)},
		{"build.timeout_s", &b.TimeoutS, within(&b.TimeoutS, 1, 3600)},
		{"build.memory_mb", &b.MemoryMB, within(&b.MemoryMB, 128, 1<<30)},
		{"build.parallel", &b.Parallel, within(&b.Parallel, 1, 1024)},
		{"build.cache_dir", &b.CacheDir, anything},
		{"build.goproxy", &b.GoProxy, notBuilt(&b.GoProxy, "off")},
		{"build.allow_imports", &b.AllowImports, globs(&b.AllowImports)},
		{"build.deny_imports", &b.DenyImports, globs(&b.DenyImports)},
		{"build.allow_binary", &b.AllowBinary, notBuilt(&b.AllowBinary, false)},
		{"egress.allow", &c.Egress.Allow, func() string { return noneBuilt(c.Egress.Allow) }},
		{"events.keep_days", &c.Events.KeepDays, within(&c.Events.KeepDays, 0, 100000)},
		{"events.max_mb", &c.Events.MaxMB, within(&c.Events.MaxMB, 0, 1<<30)},
		{"versions.keep", &c.Versions.Keep, notBuilt(&c.Versions.Keep, 50)},
		{"breaker.failures", &c.Breaker.Failures, within(&c.Breaker.Failures, 1, 1<<20)},
		{"breaker.open_ms", &c.Breaker.OpenMS, within(&c.Breaker.OpenMS, 1, 24*60*60*1000)},
		{"database.events_db", &c.Database.EventsDB, notEmpty(&c.Database.EventsDB)},
		{"database.vault_db", &c.Database.VaultDB, notEmpty(&c.Database.VaultDB)},
	}
}

// notBuilt lets nothing through but the default of what this version does not do.
func notBuilt[T comparable](v *T, otherwise T) func() string {
	return func() string {
		if *v != otherwise {
			return fmt.Sprintf("is %#v, and this version of solod can do nothing but its default, %#v", *v, otherwise)
		}
		return ""
	}
}

func noneBuilt(list []string) string {
	if len(list) > 0 {
		return "this version of solod can do nothing but its default, the empty list"
	}
	return ""
}

func ceiling(v, limit *int) func() string {
	return func() string {
		if *v != 0 && *v < *limit {
			return fmt.Sprintf("is %d, below the default of %d that each service gets: raise it, or lower the default", *v, *limit)
		}
		return ""
	}
}

func checkHost(host string) string {
	if host == "localhost" {
		return ""
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil:
		return fmt.Sprintf("must be an IP address or localhost, is %q", host)
	case !ip.IsLoopback():
		return fmt.Sprintf("%s is not a loopback address: without TLS and client certificates anyone on that network could deploy; put a proxy in front or use the unix socket", host)
	}
	return ""
}

// ConfigError is a configuration that will not do; each problem names the key
// and where its value came from.
type ConfigError struct {
	Problems []string
}

func (e *ConfigError) Error() string {
	return "the configuration is not valid:\n  " + strings.Join(e.Problems, "\n  ")
}

// maxConfigBytes bounds the file before it is parsed.
const maxConfigBytes = 1 << 20

// Load reads the file ("" is none), lays the environment over it and checks the
// result. environ is as of [os.Environ]. The error names every fault at once.
func Load(file string, environ []string) (*Config, error) {
	c := Default()
	for _, s := range c.settings() {
		c.origins[s.key] = "default"
	}
	var problems []string
	if file != "" {
		text, err := readBounded(file)
		if err != nil {
			return nil, err
		}
		problems = append(problems, c.decode(file, text)...)
	}
	problems = append(problems, c.environment(environ)...)
	if len(problems) == 0 {
		for _, s := range c.settings() {
			if why := s.check(); why != "" {
				problems = append(problems, fmt.Sprintf("%s: %s (%s)", s.key, why, c.origins[s.key]))
			}
		}
	}
	if len(problems) > 0 {
		return nil, &ConfigError{problems}
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	return c, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	case len(text) > maxConfigBytes:
		return nil, fmt.Errorf("cannot read the configuration: %s has more than %d bytes", file, maxConfigBytes)
	}
	return text, nil
}

// decode lays a TOML text over c.
func (c *Config) decode(file string, text []byte) []string {
	dec := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields()
	err := dec.Decode(c)
	var missing *toml.StrictMissingError
	var fault *toml.DecodeError
	switch {
	case errors.As(err, &missing):
		var problems []string
		for i := range missing.Errors {
			row, _ := missing.Errors[i].Position()
			key := strings.Join(missing.Errors[i].Key(), ".")
			problems = append(problems, fmt.Sprintf("%s: unknown key (%s:%d)%s", key, file, row, c.suggest(key)))
		}
		return problems
	case errors.As(err, &fault):
		row, column := fault.Position()
		what := fault.Error()
		if key := strings.Join(fault.Key(), "."); key != "" {
			if want := c.wants(key); want != "" {
				what = key + ": " + want
			} else {
				what = key + ": " + strings.TrimPrefix(what, "toml: ")
			}
		}
		return []string{fmt.Sprintf("%s (%s:%d:%d)", strings.TrimPrefix(what, "toml: "), file, row, column)}
	case err != nil:
		return []string{fmt.Sprintf("%s: %v", file, err)}
	}
	for key, line := range keyLines(text) {
		if _, ok := c.origins[key]; ok {
			c.origins[key] = fmt.Sprintf("%s:%d", file, line)
		}
	}
	return nil
}

// wants says which type a key takes.
func (c *Config) wants(key string) string {
	for _, s := range c.settings() {
		if s.key != key {
			continue
		}
		switch s.value.(type) {
		case *int:
			return "must be a whole number"
		case *bool:
			return "must be true or false"
		case *string:
			return "must be a string"
		case *[]string:
			return "must be a list of strings"
		}
	}
	return ""
}

// suggest names the key that was probably meant.
func (c *Config) suggest(key string) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	for _, s := range c.settings() {
		if name := s.key[strings.LastIndexByte(s.key, '.')+1:]; strings.EqualFold(name, last) || strings.EqualFold(strings.ReplaceAll(name, "_", ""), strings.ReplaceAll(last, "_", "")) {
			return "; did you mean " + s.key + "?"
		}
	}
	return ""
}

// keyLines finds on which line each key of a well-formed TOML text is set.
func keyLines(text []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 {
				line = 1 + strings.Count(string(text[:n.Raw.Offset]), "\n")
			}
			parts = append(parts, string(n.Data))
		}
		switch e.Kind {
		case unstable.Table:
			table = parts
		case unstable.KeyValue:
			lines[strings.Join(append(append([]string{}, table...), parts...), ".")] = line
		}
	}
	return lines
}

// environment lays variables over c: SOLO_ and the key in capitals, dots as __.
func (c *Config) environment(environ []string) []string {
	byName := map[string]setting{}
	for _, s := range c.settings() {
		byName["SOLO_"+strings.ToUpper(strings.ReplaceAll(s.key, ".", "__"))] = s
	}
	sorted := append([]string(nil), environ...)
	sort.Strings(sorted)
	var problems []string
	logLevel := ""
	for _, kv := range sorted {
		name, value, _ := strings.Cut(kv, "=")
		if name == "SOLO_LOG_LEVEL" && value != "" {
			logLevel = value
		}
		if !strings.HasPrefix(name, "SOLO_") || !strings.Contains(name, "__") {
			continue
		}
		s, ok := byName[name]
		if !ok {
			problems = append(problems, fmt.Sprintf("environment variable %s: there is no such key", name))
			continue
		}
		if why := assign(s.value, value); why != "" {
			problems = append(problems, fmt.Sprintf("%s: %s (environment variable %s)", s.key, why, name))
		}
		c.origins[s.key] = "environment variable " + name
	}
	if logLevel != "" {
		c.Solo.LogLevel = logLevel
		c.origins["solo.log_level"] = "environment variable SOLO_LOG_LEVEL"
	}
	return problems
}

func assign(dst any, value string) string {
	switch p := dst.(type) {
	case *int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Sprintf("must be a whole number, is %q", value)
		}
		*p = n
	case *bool:
		switch value {
		case "true":
			*p = true
		case "false":
			*p = false
		default:
			return fmt.Sprintf("must be true or false, is %q", value)
		}
	case *string:
		*p = value
	case *[]string:
		*p = []string{}
		for _, part := range strings.Split(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
	}
	return ""
}

// resolve makes what is left to the daemon definite: absolute paths, ceilings.
func (c *Config) resolve() error {
	dir, err := filepath.Abs(c.Solo.DataDir)
	if err != nil {
		return fmt.Errorf("cannot find the data directory: %w", err)
	}
	c.Solo.DataDir = dir
	for _, p := range []struct {
		path     *string
		fallback string
	}{
		{&c.Solo.Socket, "$data_dir/solo.sock"},
		{&c.Build.CacheDir, "$data_dir/cache"},
		{&c.Vault.KeyFile, "$data_dir/vault.key"},
		{&c.Database.EventsDB, ""},
		{&c.Database.VaultDB, ""},
	} {
		if *p.path == "" {
			*p.path = p.fallback
		}
		if rest, ok := strings.CutPrefix(*p.path, "$data_dir"); ok {
			*p.path = dir + rest
		}
		if *p.path, err = filepath.Abs(*p.path); err != nil {
			return fmt.Errorf("cannot resolve a path of the configuration: %w", err)
		}
	}
	l := &c.Limits
	for _, p := range []struct{ ceiling, limit *int }{
		{&l.CeilingMemoryMB, &l.MemoryMB}, {&l.CeilingCPUPercent, &l.CPUPercent},
		{&l.CeilingPIDs, &l.PIDs}, {&l.CeilingLogMB, &l.LogMB}, {&l.CeilingKVMB, &l.KVMB},
	} {
		if *p.ceiling == 0 {
			*p.ceiling = 4 * *p.limit
		}
	}
	// sun_path holds 108 bytes, the last of them NUL.
	for _, path := range []string{c.Solo.Socket, c.grpcSocket()} {
		if len(path) > 107 {
			return &ConfigError{[]string{fmt.Sprintf("solo.socket: %s has %d bytes, a unix socket's path at most 107: name a shorter one", path, len(path))}}
		}
	}
	if c.Solo.ListenPort == c.Solo.HTTPPort && c.Solo.HTTPPort != 0 {
		return &ConfigError{[]string{fmt.Sprintf("solo.listen_port and solo.http_port are both %d: gRPC and REST need a port each", c.Solo.HTTPPort)}}
	}
	return nil
}

// grpcSocket is beside the REST one.
func (c *Config) grpcSocket() string {
	return filepath.Join(filepath.Dir(c.Solo.Socket), "solo-grpc.sock")
}

// Print writes the configuration as TOML, each value with where it came from.
func (c *Config) Print(w io.Writer) error {
	table := ""
	var b strings.Builder
	for _, s := range c.settings() {
		head, name, _ := strings.Cut(s.key, ".")
		if head != table {
			if table != "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "[%s]\n", head)
			table = head
		}
		fmt.Fprintf(&b, "%s = %s # %s\n", name, literal(s.value), c.origins[s.key])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func literal(v any) string {
	switch p := v.(type) {
	case *int:
		return strconv.Itoa(*p)
	case *bool:
		return strconv.FormatBool(*p)
	case *string:
		return quote(*p)
	case *[]string:
		quoted := make([]string, len(*p))
		for i, s := range *p {
			quoted[i] = quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return ""
}

// quote makes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// retention is how much of the event log is kept.
func (c *Config) retention() *eventlog.Retention {
	return &eventlog.Retention{KeepFor: time.Duration(c.Events.KeepDays) * 24 * time.Hour, MaxBytes: uint64(c.Events.MaxMB) << 20}
}

// bounds are what the engine holds services and tenants to.
func (c *Config) bounds() engine.Bounds {
	defaults, ceiling := c.limits()
	return engine.Bounds{
		Defaults: defaults, Ceiling: ceiling, MaxTenants: c.Solo.MaxTenants, MaxPerTenant: c.Limits.MaxPerTenant, MaxTotal: c.Limits.MaxTotal,
		InflightPerTenant: int64(c.Limits.InflightPerTenant), InflightTotal: int64(c.Limits.InflightTotal),
		TenantSecrets: c.Limits.TenantSecrets,
		Breaker:       admission.Policy{Failures: c.Breaker.Failures, Open: time.Duration(c.Breaker.OpenMS) * time.Millisecond},
	}
}

// limits returns what a service gets and the most that one may ask for. What is
// not built yet, private data and KV, has no room to ask for.
func (c *Config) limits() (defaults, ceiling solo.Limits) {
	defaults = solo.DefaultLimits()
	defaults.MemoryMB, defaults.CPUPercent = c.Limits.MemoryMB, c.Limits.CPUPercent
	defaults.PIDs, defaults.LogMB = c.Limits.PIDs, c.Limits.LogMB
	ceiling = solo.Limits{
		MemoryMB: c.Limits.CeilingMemoryMB, CPUPercent: c.Limits.CeilingCPUPercent,
		PIDs: c.Limits.CeilingPIDs, LogMB: c.Limits.CeilingLogMB,
		DataMB: 0, KVMB: 4 * defaults.KVMB,
	}
	return defaults, ceiling
}
