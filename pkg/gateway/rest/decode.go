package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/solo-run/solo/pkg/solo"
)

// maxDepth bounds how deep a body may nest, maxFaults how many faults are told.
const (
	maxDepth  = 32
	maxFaults = 50
)

// decode reads a body into out, a pointer to a struct. Unlike encoding/json it
// takes no key that is unknown, doubled or in another case, no value of another
// type, nothing behind the object, and no text that is not UTF-8; and it tells all
// faults at once.
func decode(body []byte, out any) error {
	if !utf8.Valid(body) {
		return solo.InvalidFields(solo.Field{Field: "", Message: "the body is not UTF-8"})
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return solo.InvalidFields(solo.Field{Field: "", Message: "the body is empty: it must be a JSON object"})
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		return solo.InvalidFields(solo.Field{Field: "", Message: "the body is not JSON: " + syntax(body, err)})
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(body))}
	w.dec.UseNumber()
	t := reflect.TypeOf(out).Elem()
	if err := w.value(t, "", 0); err != nil && !errors.Is(err, io.EOF) {
		w.fault("", "%s", err)
	}
	if len(w.faults) > 0 {
		return solo.InvalidFields(w.faults...)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return solo.InvalidFields(solo.Field{Field: "", Message: "the body does not fit"})
	}
	return nil
}

// syntax words an error of JSON's grammar with its place.
func syntax(body []byte, err error) string {
	var s *json.SyntaxError
	if !errors.As(err, &s) {
		return err.Error()
	}
	at := min(int(s.Offset), len(body))
	line := 1 + bytes.Count(body[:at], []byte("\n"))
	column := at - (bytes.LastIndexByte(body[:at], '\n') + 1)
	return fmt.Sprintf("line %d, byte %d: %s", line, column, s.Error())
}

// walker holds JSON that is well-formed against a Go type.
type walker struct {
	dec    *json.Decoder
	faults []solo.Field
}

func (w *walker) fault(field, format string, args ...any) {
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, solo.Field{Field: field, Message: fmt.Sprintf(format, args...)})
	}
}

func join(parent, key string) string {
	if len(key) > 80 {
		key = strings.ToValidUTF8(key[:80], "") + "…"
	}
	if parent == "" {
		return key
	}
	return parent + "." + key
}

// value reads one value for a field of type t.
func (w *walker) value(t reflect.Type, name string, depth int) error {
	tok, err := w.dec.Token()
	if err != nil {
		return err
	}
	return w.token(tok, t, name, depth)
}

func (w *walker) token(tok json.Token, t reflect.Type, name string, depth int) error {
	if depth > maxDepth {
		w.fault(name, "is nested deeper than %d", maxDepth)
		return w.skip(tok)
	}
	nullable := false
	for t.Kind() == reflect.Pointer {
		nullable = true
		t = t.Elem()
	}
	if t == reflect.TypeFor[solo.Sensitive]() {
		t = reflect.TypeFor[string]() // as it stands in JSON
	}
	nullable = nullable || t.Kind() == reflect.Map || t.Kind() == reflect.Slice
	if tok == nil {
		if !nullable {
			w.fault(name, "must be %s, and not null", kindName(t))
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		if tok != json.Delim('{') {
			w.fault(name, "must be %s", kindName(t))
			return w.skip(tok)
		}
		return w.object(t, name, depth)
	case reflect.Map:
		if tok != json.Delim('{') {
			w.fault(name, "must be %s", kindName(t))
			return w.skip(tok)
		}
		return w.keys(name, func(key string) error { return w.value(t.Elem(), join(name, key), depth+1) })
	case reflect.Slice:
		if tok != json.Delim('[') {
			w.fault(name, "must be %s", kindName(t))
			return w.skip(tok)
		}
		for i := 0; w.dec.More(); i++ {
			if err := w.value(t.Elem(), join(name, strconv.Itoa(i)), depth+1); err != nil {
				return err
			}
		}
		_, err := w.dec.Token()
		return err
	}
	if !scalar(tok, t.Kind()) {
		w.fault(name, "must be %s", kindName(t))
		return w.skip(tok)
	}
	return nil
}

// object holds the keys of an object against the fields of a struct.
func (w *walker) object(t reflect.Type, name string, depth int) error {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if key != "" && key != "-" {
			fields[key] = t.Field(i).Type
		}
	}
	return w.keys(name, func(key string) error {
		if ft, ok := fields[key]; ok {
			return w.value(ft, join(name, key), depth+1)
		}
		message := "is not a known key"
		for known := range fields {
			if strings.EqualFold(known, key) {
				message = fmt.Sprintf("is not a known key; %q is", known)
			}
		}
		w.fault(join(name, key), "%s", message)
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		return w.skip(tok)
	})
}

// keys reads an object to its end, one key at a time, each at most once.
func (w *walker) keys(name string, each func(key string) error) error {
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		key, _ := tok.(string)
		if seen[key] {
			w.fault(join(name, key), "is there twice")
		}
		seen[key] = true
		if err := each(key); err != nil {
			return err
		}
	}
	_, err := w.dec.Token()
	return err
}

// skip reads the rest of a value whose first token was tok.
func (w *walker) skip(tok json.Token) error {
	d, ok := tok.(json.Delim)
	if !ok || d == '}' || d == ']' {
		return nil
	}
	for depth := 1; depth > 0; {
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
	return nil
}

func scalar(tok json.Token, kind reflect.Kind) bool {
	switch kind {
	case reflect.String:
		_, ok := tok.(string)
		return ok
	case reflect.Bool:
		_, ok := tok.(bool)
		return ok
	case reflect.Int, reflect.Int64:
		n, ok := tok.(json.Number)
		if !ok {
			return false
		}
		_, err := strconv.ParseInt(n.String(), 10, 64)
		return err == nil
	case reflect.Uint64:
		n, ok := tok.(json.Number)
		if !ok {
			return false
		}
		_, err := strconv.ParseUint(n.String(), 10, 63)
		return err == nil
	case reflect.Float64:
		n, ok := tok.(json.Number)
		if !ok {
			return false
		}
		f, err := n.Float64()
		return err == nil && !math.IsInf(f, 0)
	}
	return false
}

// kindName is a type in a caller's words.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}
