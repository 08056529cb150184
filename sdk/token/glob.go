package token

import (
	"fmt"
	"strings"
)

// The bounds of a glob.
const (
	maxSegments = 8
	maxGlob     = 512
)

// CheckResource tells why a glob is none: segments of [A-Za-z0-9._*-] with a slash
// between, where ** stands alone in its segment.
func CheckResource(glob string) error {
	if glob == "" || len(glob) > maxGlob {
		return fmt.Errorf("a resource has 1 to %d characters", maxGlob)
	}
	if strings.Count(glob, "/") >= maxSegments {
		return fmt.Errorf("a resource has at most %d segments", maxSegments)
	}
	for s := range strings.SplitSeq(glob, "/") {
		if s == "" {
			return fmt.Errorf("the resource %.80q has an empty segment", glob)
		}
		if strings.Contains(s, "**") && s != "**" {
			return fmt.Errorf("in the resource %.80q the ** does not stand alone in its segment", glob)
		}
		for i := range len(s) {
			c := s[i]
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' || c == '*' {
				continue
			}
			return fmt.Errorf("the resource %.80q has a character that no resource has", glob)
		}
	}
	return nil
}

// Match tells whether a glob matches a resource: * is any run of characters of one
// segment, ** any number of segments, none among them.
func Match(glob, resource string) bool {
	for {
		head, rest, more := strings.Cut(glob, "/")
		if head == "**" {
			if !more {
				return true
			}
			for {
				if Match(rest, resource) {
					return true
				}
				_, after, ok := strings.Cut(resource, "/")
				if !ok {
					return false
				}
				resource = after
			}
		}
		segment, after, ok := strings.Cut(resource, "/")
		if !matchSegment(head, segment) {
			return false
		}
		if !more || !ok {
			// services/** matches services too.
			return more == ok || more && rest == "**"
		}
		glob, resource = rest, after
	}
}

// matchSegment matches one segment, in which * may stand several times.
func matchSegment(glob, s string) bool {
	for {
		star := strings.IndexByte(glob, '*')
		if star < 0 {
			return glob == s
		}
		if len(s) < star || s[:star] != glob[:star] {
			return false
		}
		glob, s = glob[star+1:], s[star:]
		next := glob
		if i := strings.IndexByte(glob, '*'); i >= 0 {
			next = glob[:i]
		}
		if next == glob { // the last star: the rest stands at the end
			return strings.HasSuffix(s, glob)
		}
		i := strings.Index(s, next)
		if i < 0 {
			return false
		}
		s = s[i:]
	}
}

// Within tells whether all that a glob matches is matched by another. Where it
// cannot be told, the answer is no.
func Within(glob, other string) bool {
	return within(strings.Split(glob, "/"), strings.Split(other, "/"))
}

func within(a, b []string) bool {
	switch {
	case len(b) == 0:
		return len(a) == 0
	case b[0] == "**":
		if len(b) == 1 {
			return true
		}
		return within(a, b[1:]) || len(a) > 0 && within(a[1:], b)
	case len(a) == 0:
		return len(b) == 1 && b[0] == "**"
	case a[0] == "**":
		return false // any number of segments is more than one
	}
	return segmentWithin(a[0], b[0]) && within(a[1:], b[1:])
}

// segmentWithin holds a segment's glob against another: its stars are characters
// that only a star can match.
func segmentWithin(a, b string) bool { return matchSegment(b, a) }
