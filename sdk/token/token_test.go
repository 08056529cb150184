package token_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-run/solo/sdk/token"
)

var write = flag.Bool("write", false, "write testdata/vectors.json")

// vector is a token as every implementation has to make it.
type vector struct {
	Name    string   `json:"name"`
	Key     string   `json:"key"`
	ID      string   `json:"id"`
	Caveats []caveat `json:"caveats"`
	Token   string   `json:"token"`
}

type caveat struct {
	Kind  byte   `json:"kind"`
	Value string `json:"value"`
}

// second makes a token as the package comment says it, of the standard library's
// own parts and none of the package's.
func second(v vector) string {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		return b
	}
	link := func(key, text []byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write(text)
		return m.Sum(nil)
	}
	raw := append([]byte{1}, unhex(v.ID)...)
	tag := link(unhex(v.Key), append([]byte("solo capability 1"), raw...))
	raw = append(raw, byte(len(v.Caveats)))
	for _, c := range v.Caveats {
		value := unhex(c.Value)
		text := append([]byte{c.Kind, byte(len(value) >> 8), byte(len(value))}, value...)
		tag = link(tag, text)
		raw = append(raw, text...)
	}
	return "solo_" + strings.TrimRight(base64.URLEncoding.EncodeToString(append(raw, tag...)), "=")
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func id(b byte) (out [token.IDSize]byte) {
	copy(out[:], bytes.Repeat([]byte{b}, token.IDSize))
	return out
}

var noon = time.Unix(1893456000, 0).UTC()

// examples are what the vectors are made of.
func examples(t testing.TB) map[string]*token.Token {
	root := token.New(key(1), id(2))
	narrow := func(of *token.Token, n token.Narrowing) *token.Token {
		out, err := of.Attenuate(n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	granted := narrow(root, token.Narrowing{Resource: "services/*", Permissions: []string{"read", "invoke"}, Expires: noon})
	five := narrow(granted, token.Narrowing{Resource: "services/a", Methods: []string{"z", "a"}, Rate: 60})
	return map[string]*token.Token{
		"no caveats": root, "as it is granted": granted, "narrowed": five, "derived and recorded": five.WithID(id(3)),
		"narrowed again": narrow(five.WithID(id(3)), token.Narrowing{Permissions: []string{"invoke"}, Expires: noon.Add(-time.Hour), Rate: 6}),
	}
}

// The vectors hold the form of a token for every implementation of it.
func TestVectors(t *testing.T) {
	path := filepath.Join("testdata", "vectors.json")
	made := examples(t)
	if *write {
		var all []vector
		for name, tok := range made {
			ident := id(2)
			v := vector{Name: name, Key: hex.EncodeToString(key(1)), ID: hex.EncodeToString(ident[:]), Token: tok.String()}
			for _, c := range tok.Caveats {
				v.Caveats = append(v.Caveats, caveat{byte(c.Kind), hex.EncodeToString(c.Value)})
			}
			all = append(all, v)
		}
		slices.SortFunc(all, func(a, b vector) int { return strings.Compare(a.Name, b.Name) })
		text, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) != len(made) {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		if got := made[v.Name].String(); got != v.Token {
			t.Errorf("%s: the package makes\n%s, want\n%s", v.Name, got, v.Token)
		}
		if got := second(v); got != v.Token {
			t.Errorf("%s: the second implementation makes\n%s, want\n%s", v.Name, got, v.Token)
		}
		parsed, err := token.Parse(v.Token)
		if err != nil || !parsed.Verify(key(1), nil) || parsed.String() != v.Token {
			t.Errorf("%s: it is not read back: %v", v.Name, err)
		}
	}
}

// counts tells whether a text is a token that the key has made.
func counts(text string) bool {
	t, err := token.Parse(text)
	return err == nil && t.Verify(key(1), nil)
}

func TestEveryChangedCharacterIsRefused(t *testing.T) {
	text := examples(t)["narrowed again"].String()
	if !counts(text) {
		t.Fatal("it does not count as it is")
	}
	for i := range len(text) {
		for _, c := range []byte("AaZz09-_+/=. \n\x00") {
			if text[i] != c && counts(text[:i]+string(c)+text[i+1:]) {
				t.Fatalf("it counts with %q at %d", c, i)
			}
		}
		if counts(text[:i]) || counts(text[:i]+text[i+1:]) || counts(text[:i]+"A"+text[i:]) {
			t.Fatalf("it counts cut off, or longer, at %d", i)
		}
	}
	for _, tail := range []string{"=", "==", "A", "AA", "\n", " ", "."} {
		if counts(text+tail) || counts(tail+text) {
			t.Errorf("it counts with %q around it", tail)
		}
	}
	if tok, err := token.Parse(text); err != nil || tok.Verify(key(2), nil) {
		t.Errorf("it counts for another tenant's key: %v", err)
	}
}

// raw makes a token of caveats that the package would not make.
func raw(t *testing.T, caveats ...caveat) string {
	t.Helper()
	ident := id(2)
	return second(vector{Key: hex.EncodeToString(key(1)), ID: hex.EncodeToString(ident[:]), Caveats: caveats})
}

func TestWhatIsNoCaveatIsRefused(t *testing.T) {
	h := func(s string) string { return hex.EncodeToString([]byte(s)) }
	if !counts(raw(t, caveat{1, h("services/a")})) {
		t.Fatal("a good one does not count")
	}
	many := make([]caveat, token.MaxCaveats+1)
	for i := range many {
		many[i] = caveat{1, h("services/a")}
	}
	for name, text := range map[string]string{
		"an unknown kind":          raw(t, caveat{7, h("x")}),
		"kind 0":                   raw(t, caveat{0, ""}),
		"an empty resource":        raw(t, caveat{1, ""}),
		"a resource with dots out": raw(t, caveat{1, h("services//a")}),
		"permissions not sorted":   raw(t, caveat{2, h("read,invoke")}),
		"a permission twice":       raw(t, caveat{2, h("read,read")}),
		"no permission":            raw(t, caveat{2, ""}),
		"a comma at the end":       raw(t, caveat{2, h("read,")}),
		"a short expiry":           raw(t, caveat{4, h("1234567")}),
		"a rate of nothing":        raw(t, caveat{5, h("\x00\x00\x00\x00")}),
		"a short id":               raw(t, caveat{6, h("short")}),
		"too many":                 raw(t, many...),
		"a long value":             raw(t, caveat{3, h(strings.Repeat("a", token.MaxValue+1))}),
		"a long text":              token.Prefix + strings.Repeat("A", token.MaxText),
	} {
		if _, err := token.Parse(text); !errors.Is(err, token.ErrBad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Reordered and doubled caveats have another chain.
	a, b := caveat{1, h("services/a")}, caveat{2, h("read")}
	good := raw(t, a, b)
	for name, other := range map[string][]caveat{"reordered": {b, a}, "doubled": {a, a, b}, "one taken away": {a}} {
		forged := raw(t, other...)
		// The caveats of one and the tag of the other.
		body, err := base64.RawURLEncoding.DecodeString(forged[5:])
		if err != nil {
			t.Fatal(err)
		}
		tag, err := base64.RawURLEncoding.DecodeString(good[5:])
		if err != nil {
			t.Fatal(err)
		}
		mixed := append(body[:len(body)-32:len(body)-32], tag[len(tag)-32:]...)
		if counts("solo_" + base64.RawURLEncoding.EncodeToString(mixed)) {
			t.Errorf("it counts with its caveats %s", name)
		}
	}
}

func TestMatchAndWithin(t *testing.T) {
	for _, tc := range []struct {
		glob, resource string
		want           bool
	}{
		{"services/a", "services/a", true}, {"services/a", "services/b", false}, {"services/a", "services/a/b", false},
		{"services/*", "services/a", true}, {"services/*", "services", false}, {"services/*", "services/a/b", false},
		{"services/**", "services/a", true}, {"services/**", "services", true}, {"services/**", "secrets/a", false},
		{"**", "events", true}, {"**", "services/a", true}, {"*", "events", true}, {"*", "services/a", false},
		{"services/web-*", "services/web-1", true}, {"services/web-*", "services/web", false},
		{"services/*-*", "services/a-b-c", true}, {"services/*a", "services/aba", true}, {"services/a*a", "services/a", false},
		{"**/a", "services/a", true}, {"**/a", "a", true}, {"**/b", "services/a", false}, {"service*/a", "services/a", true},
		{"services/A", "services/a", false}, {"", "services/a", false},
	} {
		if got := token.Match(tc.glob, tc.resource); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.glob, tc.resource, got)
		}
	}
	for _, tc := range []struct {
		glob, other string
		want        bool
	}{
		{"services/a", "services/*", true}, {"services/*", "services/a", false}, {"services/*", "services/*", true},
		{"services/*", "services/**", true}, {"services/**", "services/*", false}, {"**", "services/**", false},
		{"services/a", "**", true}, {"services/web-*", "services/w*", true}, {"services/w*", "services/web-*", false},
		{"secrets/a", "services/**", false}, {"services", "services/**", true}, {"**/a", "**", true}, {"*/a", "**/a", true},
	} {
		if got := token.Within(tc.glob, tc.other); got != tc.want {
			t.Errorf("Within(%q, %q) = %v", tc.glob, tc.other, got)
		}
	}
}

var (
	segment   = rapid.SampledFrom([]string{"services", "secrets", "a", "b", "ab", "a-b"})
	globPart  = rapid.SampledFrom([]string{"services", "secrets", "a", "b", "*", "a*", "*b", "**", "a*b"})
	resources = rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "s"), "/") })
	globs     = rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(globPart, 1, 4).Draw(t, "g"), "/") })
)

// What is within a glob matches nothing that the glob does not.
func TestWithinIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, r := globs.Draw(t, "a"), globs.Draw(t, "b"), resources.Draw(t, "r")
		if token.Within(a, b) && token.Match(a, r) && !token.Match(b, r) {
			t.Fatalf("%q is said to be within %q, and matches %q alone", a, b, r)
		}
	})
}

// A longer chain never allows more, whatever is asked for.
func TestALongerChainNeverAllowsMore(t *testing.T) {
	permissions := []string{"admin", "deploy", "invoke", "read"}
	methods := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		tok := token.New(key(1), id(2))
		for range rapid.IntRange(1, 6).Draw(t, "links") {
			before := tok.Grant()
			n := token.Narrowing{Rate: rapid.Uint32Range(0, 100).Draw(t, "rate")}
			if rapid.Bool().Draw(t, "resource?") {
				n.Resource = globs.Draw(t, "resource")
			}
			if rapid.Bool().Draw(t, "permissions?") {
				n.Permissions = rapid.SliceOfN(rapid.SampledFrom(permissions), 1, 3).Draw(t, "permissions")
			}
			if rapid.Bool().Draw(t, "methods?") {
				n.Methods = rapid.SliceOfN(rapid.SampledFrom(methods), 1, 3).Draw(t, "methods")
			}
			if rapid.Bool().Draw(t, "expiry?") {
				n.Expires = noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "expiry")) * time.Second)
			}
			next, err := tok.Attenuate(n)
			if err != nil {
				continue
			}
			after := next.Grant()
			if !next.Verify(key(1), nil) {
				t.Fatal("a token that was narrowed does not count")
			}
			if !before.Expires.IsZero() && (after.Expires.IsZero() || after.Expires.After(before.Expires)) {
				t.Fatalf("it lives until %v, and before until %v", after.Expires, before.Expires)
			}
			if len(after.Rates) < len(before.Rates) {
				t.Fatal("a bound of the rate is gone")
			}
			for range 20 {
				p, r := rapid.SampledFrom(permissions).Draw(t, "p"), resources.Draw(t, "r")
				m := rapid.SampledFrom(append(methods, "")).Draw(t, "m")
				if after.Allows(p, r, m) && !before.Allows(p, r, m) {
					t.Fatalf("%s of %s (%q) is allowed by %+v, and not by %+v", p, r, m, after, before)
				}
				if after.AllowsSome(p, "services") && !before.AllowsSome(p, "services") {
					t.Fatalf("some %s is allowed by %+v, and not by %+v", p, after, before)
				}
				if head, _, _ := strings.Cut(r, "/"); after.Allows(p, r, "") && !after.AllowsSome(p, head) {
					t.Fatalf("%s of %s is allowed, and of no %s", p, r, head)
				}
			}
			tok = next
		}
	})
}

func TestWiderIsRefused(t *testing.T) {
	tok := examples(t)["narrowed"]
	for name, n := range map[string]token.Narrowing{
		"resource":   {Resource: "services/*"},
		"other":      {Resource: "services/b"},
		"permission": {Permissions: []string{"deploy"}},
		"admin":      {Permissions: []string{"admin"}},
		"method":     {Methods: []string{"b"}},
	} {
		if _, err := tok.Attenuate(n); !errors.Is(err, token.ErrWider) {
			t.Errorf("a wider %s: %v", name, err)
		}
	}
	same, err := tok.Attenuate(token.Narrowing{Expires: noon.Add(time.Hour), Rate: 1000})
	if err != nil || same.String() != tok.String() {
		t.Errorf("a longer life and a higher rate are not cut to the parent's: %v", err)
	}
	for name, n := range map[string]token.Narrowing{
		"no permission": {Permissions: []string{}}, "no method": {Methods: []string{}}, "a bad glob": {Resource: "a//b"},
		"a bad permission": {Permissions: []string{"a,b"}},
	} {
		if _, err := tok.Attenuate(n); err == nil || errors.Is(err, token.ErrWider) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 0; ; i++ {
		if tok, err = tok.Attenuate(token.Narrowing{Resource: "services/a"}); err != nil {
			break
		}
		if i > token.MaxCaveats {
			t.Fatal("a chain has no end")
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tok := range examples(f) {
		f.Add(tok.String())
	}
	f.Add("solo_")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := token.Parse(text)
		if err != nil {
			if !errors.Is(err, token.ErrBad) {
				t.Fatal(err)
			}
			return
		}
		if tok.String() != text {
			t.Fatalf("%q is read as %q", text, tok.String())
		}
		tok.Grant()
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("services/*", "services/a", "services/**")
	f.Fuzz(func(t *testing.T, a, r, b string) {
		if token.CheckResource(a) != nil || token.CheckResource(b) != nil || len(r) > 200 || strings.Contains(r, "*") {
			return
		}
		if token.Within(a, b) && token.Match(a, r) && !token.Match(b, r) {
			t.Fatalf("%q within %q matches %q", a, b, r)
		}
	})
}

func BenchmarkChainOfFive(b *testing.B) {
	text := examples(b)["narrowed"].String() // resource, permissions, expiry, resource, methods, rate
	b.ReportAllocs()
	for b.Loop() {
		tok, err := token.Parse(text)
		if err != nil || !tok.Verify(key1, nil) {
			b.Fatal(err)
		}
	}
}

var key1 = key(1)
