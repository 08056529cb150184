// Package layout holds the tree to its plan: what stands at the top, which
// packages there are, and who may import whom.
package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/solo-run/solo/"

// rule is one row of the import table: what a package may import of ours, and
// what it may never link, however far away.
type rule struct {
	// packages are path.Match patterns under the module.
	packages []string
	// ours are the patterns of what it may import of ours.
	ours []string
	// never are prefixes of import paths.
	never []string
}

var table = []rule{
	{packages: []string{"pkg/solo", "pkg/failpoint"}},
	{packages: []string{"pkg/store"}, ours: []string{"pkg/solo", "pkg/failpoint"}},
	{packages: []string{"pkg/eventlog", "pkg/logs", "pkg/metering", "pkg/vault"}, ours: []string{"pkg/solo", "pkg/store", "pkg/failpoint"}},
	{packages: []string{"pkg/capability"}, ours: []string{"pkg/solo", "pkg/store", "sdk/token"}},
	{packages: []string{"pkg/compiler"}, ours: []string{"pkg/solo", "pkg/failpoint", "pkg/sandbox", "pkg/compiler/*"}, never: []string{"go.etcd.io/bbolt"}},
	{packages: []string{"pkg/compiler/sdksrc", "pkg/compiler/sdksrc/gen"}, ours: []string{"pkg/compiler/*"}},
	{packages: []string{"pkg/sandbox"}, ours: []string{"pkg/solo", "pkg/sandbox/internal/*"}},
	{packages: []string{"pkg/sandbox/internal/*"}},
	{packages: []string{"pkg/process"}, ours: []string{"pkg/solo", "pkg/sandbox", "sdk/wire"}, never: []string{"go.etcd.io/bbolt"}},
	{packages: []string{"pkg/supervisor"}, ours: []string{"pkg/solo"}, never: []string{"go.etcd.io/bbolt", "github.com/hashicorp"}},
	{packages: []string{"pkg/engine"}, ours: []string{
		"pkg/solo", "pkg/failpoint", "pkg/store", "pkg/eventlog", "pkg/logs", "pkg/metering", "pkg/vault", "pkg/capability", "pkg/admission", "pkg/compiler", "pkg/process", "pkg/supervisor",
	}},
	{packages: []string{"pkg/identity", "pkg/telemetry", "pkg/admission"}, ours: []string{"pkg/solo", "pkg/store"}},
	{packages: []string{"pkg/gateway"}, ours: []string{"pkg/solo", "pkg/identity"}},
	{packages: []string{"docs"}},
	{packages: []string{"pkg/gateway/*"}, ours: []string{"pkg/solo", "proto/solo/v1", "pkg/identity", "pkg/gateway", "docs"},
		never: []string{"go.etcd.io/bbolt", "github.com/hashicorp/go-plugin"}},
	{packages: []string{"pkg/daemon"}, ours: []string{"pkg/*", "pkg/gateway/*", "docs"}},
	{packages: []string{"cmd/solod"}, ours: []string{"pkg/daemon"}},
	{packages: []string{"cmd/solo"}, ours: []string{"sdk/client", "sdk/token", "proto/solo/v1", "pkg/daemon"}},
	{packages: []string{"proto/solo/v1"}},
	{packages: []string{"sdk", "sdk/wire"}, ours: []string{"sdk", "sdk/wire", "sdk/internal/*"}, never: []string{
		"net", "net/http", "crypto/tls", "google.golang.org", "github.com", "text/template",
	}},
	{packages: []string{"sdk/sdktest"}, ours: []string{"sdk", "sdk/wire"}},
	{packages: []string{"sdk/token"}},
	{packages: []string{"sdk/client"}, ours: []string{"proto/solo/v1", "sdk/token"}},
	{packages: []string{"plugins/*", "plugins/*/*"}, ours: []string{"sdk", "sdk/sdktest", "plugins/*/*"}},
	{packages: []string{"test/*"}, ours: []string{"*", "*/*", "*/*/*", "*/*/*/*"}},
}

// named are the rooms that stand today: one that is gone fails the test.
var named = []string{
	"cmd/solod", "cmd/solo", "pkg/daemon", "pkg/gateway/rest", "pkg/gateway/grpc", "pkg/gateway/mcp", "pkg/engine", "pkg/supervisor", "pkg/process",
	"pkg/sandbox", "pkg/compiler", "pkg/eventlog", "pkg/logs", "pkg/metering", "pkg/vault", "pkg/capability", "pkg/admission", "pkg/identity", "pkg/telemetry", "pkg/store", "pkg/solo",
	"sdk", "sdk/wire", "sdk/sdktest", "sdk/token", "sdk/client", "proto/solo/v1", "plugins/echo", "plugins/counter",
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// list is every package of the module; those of other modules in the tree, which
// have a go.mod of their own, are not.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-buildvcs=false", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return err == nil && ok
	})
}

func TestImportTable(t *testing.T) {
	var seen []string
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		seen = append(seen, name)
		i := slices.IndexFunc(table, func(r rule) bool { return matches(r.packages, name) })
		if i < 0 {
			t.Errorf("%s stands in no row of the import table", name)
			continue
		}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok && !matches(table[i].ours, ours) {
				t.Errorf("%s may not import %s", name, ours)
			}
		}
		for _, dep := range p.Deps {
			for _, never := range table[i].never {
				// The standard library keeps vendored copies of its own; they are not these.
				if dep == never || strings.HasPrefix(dep, never+"/") && never != "net" {
					if dep == "golang.org/x/net/http2/hpack" || strings.HasPrefix(dep, module) {
						continue
					}
					t.Errorf("%s links %s, which it may never", name, dep)
				}
			}
		}
	}
	for _, name := range named {
		if !slices.Contains(seen, name) {
			t.Errorf("the package %s is gone", name)
		}
	}
	// It is a module of its own, as an author's is, so go list does not tell of it.
	if _, err := os.Stat(filepath.Join(root(t), "plugins/calculator/go.mod")); err != nil {
		t.Errorf("the module plugins/calculator is gone: %v", err)
	}
}

func TestTopLevel(t *testing.T) {
	want := []string{"LICENSE", "Makefile", "README.md", "cmd", "deploy", "docs", "go.mod", "go.sum", "pkg", "plugins", "proto", "sdk", "test"}
	cmd := exec.Command("git", "ls-files")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("not a git checkout, so what belongs to the tree is not known (make test in a clone covers it): %v", err)
	}
	var got []string
	for _, file := range strings.Fields(string(out)) {
		top, _, _ := strings.Cut(file, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(got, top) {
			got = append(got, top)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("at the top stand %q, want %q", got, want)
	}
}
