package daemon_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-run/solo/pkg/daemon"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "solo.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigRefusesWithKeyAndPlace(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		env        []string
		want       []string
	}{
		{"unknown key", "[solo]\nhttp_port = 1\nhtp_port = 2\n", nil, []string{"solo.htp_port", "unknown key", ":3)"}},
		{"unknown table", "[sol]\nhttp_port = 1\n", nil, []string{"sol", "unknown key", ":1)"}},
		{"another case", "[solo]\nHttpPort = 1\n", nil, []string{"solo.HttpPort", "did you mean solo.http_port?"}},
		{"two faults at once", "[solo]\na = 1\n[limits]\nb = 2\n", nil, []string{"solo.a", ":2)", "limits.b", ":4)"}},
		{"a string for a number", "[solo]\nhttp_port = \"x\"\n", nil, []string{"solo.http_port", "whole number", ":2:"}},
		{"a number for a string", "[solo]\ndata_dir = 4\n", nil, []string{"solo.data_dir", "must be a string", ":2:"}},
		{"a string for a list", "[build]\nallow_imports = \"fmt\"\n", nil, []string{"build.allow_imports", "list of strings"}},
		{"out of range", "[solo]\n\nhttp_port = 70000\n", nil, []string{"solo.http_port", "from 0 to 65535", "70000", ":3)"}},
		{"broken TOML", "[solo\n", nil, []string{":1:"}},
		{"set twice", "[solo]\nhttp_port = 1\nhttp_port = 2\n", nil, []string{"http_port", ":3:"}},
		{"no such word", "[security]\nisolation = \"some\"\n", nil, []string{"security.isolation", "strict, auto or none", "\"some\""}},
		{"every address", "[solo]\nlisten_host = \"0.0.0.0\"\n", nil, []string{"solo.listen_host", "not a loopback address"}},
		{"a name for an address", "[solo]\nlisten_host = \"example.org\"\n", nil, []string{"solo.listen_host", "IP address"}},
		{"a ceiling below the default", "[limits]\nmemory_mb = 100\nceiling_memory_mb = 50\n", nil, []string{"limits.ceiling_memory_mb", "below the default of 100", ":3)"}},
		{"a bad pattern", "[build]\ndeny_imports = [\"[\"]\n", nil, []string{"build.deny_imports", "path.Match"}},
		{"an unknown variable", "", []string{"SOLO_SOLO__HTP_PORT=1"}, []string{"SOLO_SOLO__HTP_PORT", "no such key"}},
		{"a bad variable", "", []string{"SOLO_LIMITS__MAX_TOTAL=many"}, []string{"limits.max_total", "whole number", "SOLO_LIMITS__MAX_TOTAL"}},
		{"what is not built", "[security]\nrequire_mtls = true\n[build]\ngoproxy = \"direct\"\n[egress]\nallow = [\"example.org\"]\n", nil,
			[]string{"security.require_mtls", "is true", ":2)", "build.goproxy", "direct", ":4)", "egress.allow", ":6)"}},
		{"one port for both", "[solo]\nlisten_port = 9000\nhttp_port = 9000\n", nil, []string{"both 9000"}},
		{"a long socket", "[solo]\nsocket = \"/" + strings.Repeat("s", 120) + "\"\n", nil, []string{"solo.socket", "at most 107"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := ""
			if tc.file != "" {
				file = write(t, tc.file)
			}
			_, err := daemon.Load(file, tc.env)
			var bad *daemon.ConfigError
			if !errors.As(err, &bad) {
				t.Fatalf("Load = %v, want a ConfigError", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestConfigSaysWhereEachValueCameFrom(t *testing.T) {
	file := write(t, "solo.max_tenants = 7\n[limits]\nmemory_mb = 64 # enough\n[build]\nallow_imports = [\"fmt\", \"a\\\"b\"]\n")
	c, err := daemon.Load(file, []string{"SOLO_LIMITS__MAX_TOTAL=50", "SOLO_LOG_LEVEL=debug", "SOLO_SOLO__LOG_LEVEL=error", "SOLO_ADDR=x", "SOLO_BUILD__DENY_IMPORTS=os/exec, net"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"http_port = 8080 # default\n",
		"max_tenants = 7 # " + file + ":1\n",
		"memory_mb = 64 # " + file + ":3\n",
		"ceiling_memory_mb = 256 # default\n",
		"max_total = 50 # environment variable SOLO_LIMITS__MAX_TOTAL\n",
		"log_level = \"debug\" # environment variable SOLO_LOG_LEVEL\n",
		`allow_imports = ["fmt", "a\"b"] # ` + file + ":5\n",
		`deny_imports = ["os/exec", "net"] # environment variable SOLO_BUILD__DENY_IMPORTS` + "\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--print-config lacks %q:\n%s", want, out.String())
		}
	}
	// What is printed is itself a configuration, and the same one.
	again, err := daemon.Load(write(t, out.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Solo != c.Solo || again.Limits != c.Limits {
		t.Errorf("the printed configuration reads as %+v %+v, was %+v %+v", again.Solo, again.Limits, c.Solo, c.Limits)
	}
}

func TestConfigPathsAreAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c, err := daemon.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]string{
		"data_dir":  {c.Solo.DataDir, filepath.Join(dir, "data")},
		"socket":    {c.Solo.Socket, filepath.Join(dir, "data/solo.sock")},
		"events_db": {c.Database.EventsDB, filepath.Join(dir, "data/events")},
		"cache_dir": {c.Build.CacheDir, filepath.Join(dir, "data/cache")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s = %s, want %s", name, pair[0], pair[1])
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("[solo]\nhttp_port = 1\n")
	f.Add("solo = { http_port = 1 }\n[build]\nallow_imports = [\"a\"]\n")
	f.Add("[[solo]]\n\"http_port\" = 0x10\n")
	dir := f.TempDir()
	file := filepath.Join(dir, "solo.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := daemon.Load(file, nil)
		if (c == nil) == (err == nil) {
			t.Fatalf("Load = %v, %v", c, err)
		}
	})
}
