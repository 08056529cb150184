// Command gen writes sdk.txtar: the SDK, and the one package outside the standard
// library that it needs, as a vendor directory. With -check it fails if the file
// is not what it would write.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/tools/txtar"
)

const (
	module  = "github.com/solo-run/solo"
	hpack   = "golang.org/x/net/http2/hpack"
	archive = "pkg/compiler/sdksrc/sdk.txtar"
)

// packages are what a tenant may import, and what those need.
var packages = []string{module + "/sdk", module + "/sdk/sdktest", module + "/sdk/wire", hpack}

func main() {
	check := flag.Bool("check", false, "fail if the archive is stale, write nothing")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

type listed struct {
	Dir        string
	ImportPath string
	GoFiles    []string
	Module     struct {
		Path, Version, GoVersion, Dir string
	}
}

func run(check bool) error {
	var root struct{ Dir string }
	if err := goList(&root, "-m", "-json=Dir", module); err != nil {
		return err
	}
	text, err := build()
	if err != nil {
		return err
	}
	file := filepath.Join(root.Dir, archive)
	if !check {
		return os.WriteFile(file, text, 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return fmt.Errorf("%s is not the SDK of this tree; run: go generate ./pkg/compiler/sdksrc", archive)
	}
	return nil
}

func goList(out any, args ...string) error {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

func build() ([]byte, error) {
	a := &txtar.Archive{Comment: []byte("Made by go generate ./pkg/compiler/sdksrc. The vendor directory of every tenant's build.\n")}
	modules := map[string]string{}
	packagesOf := map[string][]string{}
	licences := map[string]bool{}
	add := func(name, file string) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		a.Files = append(a.Files, txtar.File{Name: name, Data: text})
		return nil
	}
	for _, name := range packages {
		var p listed
		if err := goList(&p, "-json=Dir,ImportPath,GoFiles,Module", name); err != nil {
			return nil, err
		}
		version := p.Module.Version
		if p.Module.Path == module {
			version = "v0.0.0"
		}
		head := fmt.Sprintf("# %s %s\n## explicit; go %s\n", p.Module.Path, version, p.Module.GoVersion)
		modules[p.Module.Path] = head
		packagesOf[p.Module.Path] = append(packagesOf[p.Module.Path], name)
		for _, file := range p.GoFiles {
			if err := add(path.Join(name, file), filepath.Join(p.Dir, file)); err != nil {
				return nil, err
			}
		}
		if !licences[p.Module.Path] {
			licences[p.Module.Path] = true
			if err := add(path.Join(p.Module.Path, "LICENSE"), filepath.Join(p.Module.Dir, "LICENSE")); err != nil {
				return nil, err
			}
		}
	}
	var list strings.Builder
	var paths []string
	for p := range modules {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		list.WriteString(modules[p])
		for _, name := range packagesOf[p] {
			list.WriteString(name + "\n")
		}
	}
	a.Files = append(a.Files, txtar.File{Name: "modules.txt", Data: []byte(list.String())})
	sort.Slice(a.Files, func(i, j int) bool { return a.Files[i].Name < a.Files[j].Name })
	return txtar.Format(a), nil
}
