// Package token is the form of a capability as it travels, for both of its ends:
// the daemon, which makes and checks tokens, and their holders, who narrow them
// without asking anybody.
//
// A token is "solo_" and strict base64url, without padding, of
//
//	byte 1 (the form), 32 bytes id, one byte count, count caveats, 32 bytes tag
//	caveat = one byte kind, two bytes length (big endian), the value
//
// The tag is the end of a chain of HMAC-SHA-256: the first link is keyed by the
// tenant's key and made over "solo capability 1", the form and the id; each further
// one is keyed by the link before and made over a caveat as it stands in the token.
// Who has a token can add a caveat, and so a link; nobody can take one away.
//
//	kind 1  resource     a glob: * within a segment, ** over segments
//	kind 2  permissions  words, each once, sorted, with a comma between
//	kind 3  methods      the same, of a service's methods
//	kind 4  expiry       8 bytes: Unix time in seconds
//	kind 5  rate         4 bytes: requests a minute, 1 or more
//	kind 6  id           32 bytes: the id of a capability that was derived and recorded
//
// Everything that every caveat allows is allowed. A caveat of another kind, or one
// that is not in its one right spelling, makes the token worthless: it is refused,
// and never ignored.
package token

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The bounds of a token.
const (
	// Prefix is how every token begins.
	Prefix = "solo_"
	// IDSize is the size of an id, in bytes.
	IDSize = 32
	// MaxCaveats is how many caveats a token may have, MaxValue how many bytes one.
	MaxCaveats = 64
	MaxValue   = 1024
	// MaxText is the longest text that is looked at.
	MaxText = 16 << 10

	tagSize = sha256.Size
	form    = 1
)

// Kind tells caveats apart.
type Kind byte

// The kinds.
const (
	KindResource    Kind = 1
	KindPermissions Kind = 2
	KindMethods     Kind = 3
	KindExpiry      Kind = 4
	KindRate        Kind = 5
	KindID          Kind = 6
)

// ErrBad is what is no token: the one error for every fault, so that nobody learns
// how near they came.
var ErrBad = errors.New("the token is not one that this daemon has given")

// Token is a parsed token. Its caveats point into raw.
type Token struct {
	ID      [IDSize]byte
	Caveats []Caveat
	tag     [tagSize]byte
}

// Caveat is one restriction.
type Caveat struct {
	Kind  Kind
	Value []byte
	// text is the caveat as it stands in the token.
	text []byte
}

var encoding = base64.RawURLEncoding.Strict()

// Parse reads a token. It says nothing of who has made it: see [Token.Verify].
func Parse(text string) (*Token, error) {
	body, ok := strings.CutPrefix(text, Prefix)
	if !ok || len(text) > MaxText || strings.ContainsAny(body, "\r\n") {
		return nil, ErrBad
	}
	raw, err := encoding.DecodeString(body)
	if err != nil || len(raw) < 1+IDSize+1+tagSize || raw[0] != form {
		return nil, ErrBad
	}
	t := &Token{}
	copy(t.ID[:], raw[1:])
	n, rest := int(raw[1+IDSize]), raw[1+IDSize+1:]
	words := string(rest) // once for all caveats
	if n > MaxCaveats {
		return nil, ErrBad
	}
	t.Caveats = make([]Caveat, n)
	for i := range t.Caveats {
		if len(rest) < 3 {
			return nil, ErrBad
		}
		size := int(binary.BigEndian.Uint16(rest[1:]))
		if size > MaxValue || len(rest) < 3+size {
			return nil, ErrBad
		}
		t.Caveats[i] = Caveat{Kind: Kind(rest[0]), Value: rest[3 : 3+size], text: rest[:3+size]}
		if !spelt(t.Caveats[i].Kind, words[3:3+size]) {
			return nil, ErrBad
		}
		rest, words = rest[3+size:], words[3+size:]
	}
	if len(rest) != tagSize {
		return nil, ErrBad
	}
	copy(t.tag[:], rest)
	return t, nil
}

// spelt tells whether the value is in its one right form.
func spelt(kind Kind, value string) bool {
	switch kind {
	case KindResource:
		return CheckResource(value) == nil
	case KindPermissions, KindMethods:
		last := ""
		for word := range strings.SplitSeq(value, ",") {
			if word == "" || word <= last || !plain(word) {
				return false
			}
			last = word
		}
		return true
	case KindExpiry:
		return len(value) == 8
	case KindRate:
		return len(value) == 4 && value != "\x00\x00\x00\x00"
	case KindID:
		return len(value) == IDSize
	}
	return false
}

// plain is a word of what ids and methods are made of.
func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < '!' || c > '~' || c == ',' || c == '/' {
			return false
		}
	}
	return true
}

// String is the token as it travels.
func (t *Token) String() string {
	size := 1 + IDSize + 1 + tagSize
	for _, c := range t.Caveats {
		size += len(c.text)
	}
	raw := make([]byte, 0, size)
	raw = append(raw, form)
	raw = append(raw, t.ID[:]...)
	raw = append(raw, byte(len(t.Caveats)))
	for _, c := range t.Caveats {
		raw = append(raw, c.text...)
	}
	return Prefix + encoding.EncodeToString(append(raw, t.tag[:]...))
}

// begin is what the first link is made over, before the id.
const begin = "solo capability 1"

// New makes a token of a tenant's key, without caveats.
func New(key []byte, id [IDSize]byte) *Token {
	return &Token{ID: id, tag: first(key, id)}
}

func first(key []byte, id [IDSize]byte) [tagSize]byte {
	var text [len(begin) + 1 + IDSize]byte
	copy(text[:], begin)
	text[len(begin)] = form
	copy(text[len(begin)+1:], id[:])
	return mac(key, text[:])
}

// with adds a caveat, and its link to the chain.
func (t *Token) with(kind Kind, value []byte) {
	text := make([]byte, 0, 3+len(value))
	text = append(text, byte(kind))
	text = binary.BigEndian.AppendUint16(text, uint16(len(value)))
	text = append(text, value...)
	t.Caveats = append(slices.Clip(t.Caveats), Caveat{Kind: kind, Value: text[3:], text: text})
	t.tag = mac(t.tag[:], text)
}

// WithID adds the id of a capability that is derived and recorded.
func (t *Token) WithID(id [IDSize]byte) *Token {
	out := *t
	out.with(KindID, id[:])
	return &out
}

// Verify tells whether the token was made with the tenant's key and only ever
// narrowed since. link, where it is not nil, is given the link behind each caveat.
func (t *Token) Verify(key []byte, link func(at int, tag [tagSize]byte)) bool {
	tag := first(key, t.ID)
	for i := range t.Caveats {
		tag = mac(tag[:], t.Caveats[i].text)
		if link != nil {
			link(i, tag)
		}
	}
	return subtle.ConstantTimeCompare(tag[:], t.tag[:]) == 1
}

const block = sha256.BlockSize

// mac is HMAC-SHA-256 with a key of no more than a block, without the allocations
// of crypto/hmac: a chain has one for each caveat, and is on the way of calls.
func mac(key, text []byte) [tagSize]byte {
	if len(key) > block {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	var buf [block + 256]byte
	inner := append(buf[:0], make([]byte, block)...)
	for i := range inner {
		inner[i] = 0x36
		if i < len(key) {
			inner[i] ^= key[i]
		}
	}
	sum := sha256.Sum256(append(inner, text...))
	var outer [block + tagSize]byte
	for i := range block {
		outer[i] = 0x5c
		if i < len(key) {
			outer[i] ^= key[i]
		}
	}
	copy(outer[block:], sum[:])
	return sha256.Sum256(outer[:])
}

// Grant is what a capability allows, as one sum of its caveats.
type Grant struct {
	// Resources have to match, all of them.
	Resources []string
	// Permissions are allowed; admin is every one of them.
	Permissions []string
	// Methods of a service may be called; nil is every one.
	Methods []string
	// Expires is when it ends; the zero time is never.
	Expires time.Time
	// Rates are bounds in requests a minute; each counts by itself.
	Rates []uint32
}

// Admin is the permission that holds every other.
const Admin = "admin"

// Grant adds up the caveats.
func (t *Token) Grant() Grant {
	g := Grant{Permissions: []string{Admin}}
	for _, c := range t.Caveats {
		switch c.Kind {
		case KindResource:
			g.Resources = append(g.Resources, string(c.Value))
		case KindPermissions:
			g.Permissions = common(g.Permissions, strings.Split(string(c.Value), ","))
		case KindMethods:
			words := strings.Split(string(c.Value), ",")
			if g.Methods != nil {
				words = intersect(g.Methods, words)
			}
			g.Methods = words
		case KindExpiry:
			at := time.Unix(int64(min(binary.BigEndian.Uint64(c.Value), 1<<40)), 0).UTC()
			if g.Expires.IsZero() || at.Before(g.Expires) {
				g.Expires = at
			}
		case KindRate:
			g.Rates = append(g.Rates, binary.BigEndian.Uint32(c.Value))
		}
	}
	return g
}

// common are the permissions that both hold.
func common(a, b []string) []string {
	switch {
	case slices.Contains(a, Admin):
		return b
	case slices.Contains(b, Admin):
		return a
	}
	return intersect(a, b)
}

func intersect(a, b []string) []string {
	out := []string{}
	for _, word := range a {
		if slices.Contains(b, word) {
			out = append(out, word)
		}
	}
	return out
}

// Permits tells whether the permission is held, on whatever resource.
func (g *Grant) Permits(permission string) bool {
	return slices.Contains(g.Permissions, permission) || slices.Contains(g.Permissions, Admin)
}

// Allows tells whether a call of a resource is allowed, as far as it is not a
// matter of time or rate. method is that of an invoke, else "".
func (g *Grant) Allows(permission, resource, method string) bool {
	if !g.Permits(permission) {
		return false
	}
	if method != "" && g.Methods != nil && !slices.Contains(g.Methods, method) {
		return false
	}
	for _, glob := range g.Resources {
		if !Match(glob, resource) {
			return false
		}
	}
	return true
}

// AllowsSome tells whether some resource of a kind, the first segment of its name,
// may be allowed.
func (g *Grant) AllowsSome(permission, kind string) bool {
	if !g.Permits(permission) {
		return false
	}
	for _, glob := range g.Resources {
		head, _, _ := strings.Cut(glob, "/")
		if head != "**" && !matchSegment(head, kind) {
			return false
		}
	}
	return true
}

// Narrowing is what is to be taken off a token; a field that is not set takes
// nothing off.
type Narrowing struct {
	Resource    string
	Permissions []string
	// Methods of a service; nil takes none off, an empty list is refused.
	Methods []string
	// Expires is cut to the parent's.
	Expires time.Time
	// Rate is in requests a minute, and cut to the parent's.
	Rate uint32
}

// ErrWider is a narrowing that would allow what the token does not.
var ErrWider = errors.New("it would allow more than the token does")

// Attenuate returns a token that allows less. Errors wrap [ErrWider] where it would
// be more, or say which value is none.
func (t *Token) Attenuate(n Narrowing) (*Token, error) {
	out, g := *t, t.Grant()
	if n.Resource != "" {
		if err := CheckResource(n.Resource); err != nil {
			return nil, err
		}
		for _, held := range g.Resources {
			if !Within(n.Resource, held) {
				return nil, fmt.Errorf("the resource %q is not within %q: %w", n.Resource, held, ErrWider)
			}
		}
		out.with(KindResource, []byte(n.Resource))
	}
	if n.Permissions != nil {
		value, err := words(n.Permissions, "permission")
		if err != nil {
			return nil, err
		}
		for _, p := range n.Permissions {
			if !g.Permits(p) {
				return nil, fmt.Errorf("the permission %q is not held: %w", p, ErrWider)
			}
		}
		out.with(KindPermissions, value)
	}
	if n.Methods != nil {
		value, err := words(n.Methods, "method")
		if err != nil {
			return nil, err
		}
		for _, m := range n.Methods {
			if g.Methods != nil && !slices.Contains(g.Methods, m) {
				return nil, fmt.Errorf("the method %q is not held: %w", m, ErrWider)
			}
		}
		out.with(KindMethods, value)
	}
	if !n.Expires.IsZero() && (g.Expires.IsZero() || n.Expires.Before(g.Expires)) {
		out.with(KindExpiry, binary.BigEndian.AppendUint64(nil, uint64(max(n.Expires.Unix(), 0))))
	}
	if n.Rate > 0 && (len(g.Rates) == 0 || n.Rate < slices.Min(g.Rates)) {
		out.with(KindRate, binary.BigEndian.AppendUint32(nil, n.Rate))
	}
	if len(out.Caveats) > MaxCaveats-1 {
		return nil, fmt.Errorf("the token has been narrowed too often: it may have %d caveats", MaxCaveats-1)
	}
	return &out, nil
}

// words is a list in its one right spelling.
func words(list []string, what string) ([]byte, error) {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	if len(sorted) == 0 {
		return nil, fmt.Errorf("there is no %s in the list: that would allow nothing", what)
	}
	for _, word := range sorted {
		if word == "" || !plain(word) {
			return nil, fmt.Errorf("%.80q is no %s", word, what)
		}
	}
	value := strings.Join(sorted, ",")
	if len(value) > MaxValue {
		return nil, fmt.Errorf("the list of %ss has more than %d bytes", what, MaxValue)
	}
	return []byte(value), nil
}
