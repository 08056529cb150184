package compiler

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"go/scanner"
	"go/token"
	"path"
	"regexp"
	"sort"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/solo-run/solo/pkg/solo"
)

// singleFile is the name of a source that is one Go file.
const singleFile = "main.go"

// Parse reads the source of a deploy: a Go file, a txtar archive, or files. The
// error is invalid_request, or too_large with details.limit.
func Parse(req *solo.DeployRequest) (solo.Source, error) {
	if req.Format != nil && *req.Format != "go_source" {
		return solo.Source{}, solo.InvalidFields(solo.Field{Field: "format", Message: fmt.Sprintf(`must be "go_source", is %q`, *req.Format)})
	}
	var files []solo.File
	switch {
	case req.Code != nil && req.Files != nil:
		return solo.Source{}, solo.InvalidFields(solo.Field{Field: "files", Message: "cannot be given together with code"})
	case req.Code != nil:
		if len(*req.Code) > solo.MaxSourceBytes {
			return solo.Source{}, tooLarge("the source", len(*req.Code), solo.MaxSourceBytes)
		}
		files = parseCode(*req.Code)
	case req.Files != nil:
		for name, text := range req.Files {
			files = append(files, solo.File{Name: name, Data: []byte(text)})
		}
	default:
		return solo.Source{}, solo.InvalidFields(solo.Field{Field: "code", Message: "is required, or files"})
	}
	sort.SliceStable(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	src := solo.Source{Files: files}
	if err := check(src); err != nil {
		return solo.Source{}, err
	}
	return src, nil
}

func tooLarge(what string, n, limit int) error {
	return solo.Errorf(solo.CodeTooLarge, "%s has %d bytes, at most %d are allowed", what, n, limit).With("limit", limit)
}

// marker is a txtar line that begins a file, with or without a CR at its end.
var marker = regexp.MustCompile(`(?m)^-- (.+) --[ \t]*\r?$`)

// parseCode tells a Go file from an archive: an archive has a marker line, and no
// package clause before the first one.
func parseCode(code string) []solo.File {
	first := marker.FindStringIndex(code)
	if first == nil || hasPackageClause(code[:first[0]]) {
		return []solo.File{{Name: singleFile, Data: []byte(code)}}
	}
	plain := marker.ReplaceAllString(code, "-- $1 --")
	var files []solo.File
	for _, f := range txtar.Parse([]byte(plain)).Files {
		files = append(files, solo.File{Name: strings.TrimSpace(f.Name), Data: f.Data})
	}
	return files
}

// hasPackageClause reports whether the first word of a text, as Go reads it, is
// package.
func hasPackageClause(text string) bool {
	var s scanner.Scanner
	src := []byte(text)
	s.Init(token.NewFileSet().AddFile("", -1, len(src)), src, nil, 0)
	_, tok, _ := s.Scan()
	return tok == token.PACKAGE
}

// check holds a source to the rules of contract 4a that are about its form.
func check(src solo.Source) error {
	var fields []solo.Field
	total, goFiles := 0, 0
	seen := map[string]bool{}
	for _, f := range src.Files {
		total += len(f.Data)
		if why := checkName(f.Name); why != "" {
			fields = append(fields, solo.Field{Field: "files", Message: fmt.Sprintf("%.200q: %s", f.Name, why)})
			continue
		}
		if seen[f.Name] {
			fields = append(fields, solo.Field{Field: "files", Message: fmt.Sprintf("%q is there twice", f.Name)})
		}
		seen[f.Name] = true
		if strings.HasSuffix(f.Name, ".go") && len(bytes.TrimSpace(f.Data)) > 0 {
			goFiles++
		}
		if len(f.Data) > solo.MaxFileBytes {
			return tooLarge(fmt.Sprintf("the file %.200q", f.Name), len(f.Data), solo.MaxFileBytes)
		}
	}
	for name := range seen {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				fields = append(fields, solo.Field{Field: "files", Message: fmt.Sprintf("%q is a file and the directory of %q", dir, name)})
				break
			}
		}
	}
	switch {
	case len(src.Files) > solo.MaxFiles:
		return solo.Errorf(solo.CodeTooLarge, "the source has %d files, at most %d are allowed", len(src.Files), solo.MaxFiles).With("limit", solo.MaxFiles)
	case total > solo.MaxSourceBytes:
		return tooLarge("the source", total, solo.MaxSourceBytes)
	case len(fields) > 0:
		sort.Slice(fields, func(i, j int) bool { return fields[i].Message < fields[j].Message })
		return solo.InvalidFields(fields...)
	case goFiles == 0:
		return solo.InvalidFields(solo.Field{Field: "code", Message: "the source is empty: it holds no Go file with anything in it"})
	}
	return nil
}

func checkName(name string) string {
	switch {
	case name == "":
		return "a name must not be empty"
	case len(name) > 255:
		return "a name has at most 255 bytes"
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '/' || c == '-' {
			continue
		}
		return "a name holds only A-Z, a-z, 0-9, '.', '_', '/' and '-'"
	}
	for _, part := range strings.Split(name, "/") {
		switch {
		case part == "":
			return "a name is a clean relative path"
		case part[0] == '.', part[0] == '-':
			return "no part of a name begins with '.' or '-'"
		case part == "vendor":
			return "vendor is solod's own: the SDK is there already"
		}
	}
	return ""
}

// SourceDigest names a source: hex SHA-256 over its names and bytes.
func SourceDigest(src solo.Source) string {
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, f := range src.Files {
		part([]byte(f.Name))
		part(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}
