package early

import (
	"fmt"
	"strconv"
	"strings"
)

// fdControl is what a shim and a guard are told over: the shim's orders and its
// word if it fails come and go by a unix socket, the guard's lines by a pipe.
const fdControl = 3

// The files that come with a shim's orders, by their place; those of Spec.Groups
// follow.
const (
	fileStdout = iota
	fileStderr
	fileBinary
	fileFirstGroup

	// MaxFiles bounds them.
	MaxFiles  = fileFirstGroup + maxGroups
	maxGroups = 16
)

// Ready is what a shim says before it becomes the program; what follows is the
// reason why it could not.
const Ready = '='

// ExitShim is the exit code of a shim that could not become its program. The
// reason is on the control socket; a program may use the same code.
const ExitShim = 111

// MaxSpec bounds an encoded [Spec], in bytes.
const MaxSpec = 1 << 20

// Spec tells the shim what to become.
type Spec struct {
	Args []string
	Env  []string
	Dir  string
	// UID is the user and group to become; -1 keeps those of the caller.
	UID int
	// Groups is how many v1 task files follow the fixed files.
	Groups int
	// NoNewPrivs also empties the bounding set where the caller is root.
	NoNewPrivs bool
	Rlimits    []Rlimit
	// Binds are shown to the program in a mount namespace of its own.
	Binds []Bind
}

// Bind shows Source at Target.
type Bind struct {
	Source, Target string
}

// Rlimit is one resource limit, soft and hard alike. A limit above the
// caller's hard one is cut to it.
type Rlimit struct {
	Resource int
	Max      uint64
}

// Encode writes the spec as fields that end in NUL, behind their total length in
// eight hex digits. No field may hold a NUL, as the kernel's own arguments may not.
func (s *Spec) Encode() ([]byte, error) {
	var b strings.Builder
	put := func(v string) {
		b.WriteString(v)
		b.WriteByte(0)
	}
	list := func(vs []string) {
		put(strconv.Itoa(len(vs)))
		for _, v := range vs {
			put(v)
		}
	}
	paths := []string{s.Dir}
	for _, m := range s.Binds {
		paths = append(paths, m.Source, m.Target)
	}
	for _, vs := range [][]string{s.Args, s.Env, paths} {
		for _, v := range vs {
			if strings.IndexByte(v, 0) >= 0 {
				return nil, fmt.Errorf("cannot pass %q to a program: it holds a NUL", v)
			}
		}
	}
	list(s.Args)
	list(s.Env)
	put(s.Dir)
	put(strconv.Itoa(s.UID))
	put(strconv.Itoa(s.Groups))
	put(strconv.FormatBool(s.NoNewPrivs))
	put(strconv.Itoa(len(s.Rlimits)))
	for _, r := range s.Rlimits {
		put(strconv.Itoa(r.Resource))
		put(strconv.FormatUint(r.Max, 10))
	}
	put(strconv.Itoa(len(s.Binds)))
	for _, m := range s.Binds {
		put(m.Source)
		put(m.Target)
	}
	if b.Len() > MaxSpec {
		return nil, fmt.Errorf("cannot pass arguments and environment of %d bytes, at most %d are allowed", b.Len(), MaxSpec)
	}
	return []byte(fmt.Sprintf("%08x", b.Len()) + b.String()), nil
}

// Decode reads what [Spec.Encode] wrote, without the length in front.
func Decode(data []byte) (*Spec, error) {
	d := decoder{rest: string(data)}
	s := &Spec{Args: d.list(), Env: d.list(), Dir: d.str()}
	s.UID = d.num()
	s.Groups = d.num()
	s.NoNewPrivs = d.str() == "true"
	for n := d.num(); n > 0 && !d.bad; n-- {
		r := Rlimit{Resource: d.num()}
		max, err := strconv.ParseUint(d.str(), 10, 64)
		d.bad = d.bad || err != nil
		r.Max = max
		s.Rlimits = append(s.Rlimits, r)
	}
	for n := d.num(); n > 0 && !d.bad; n-- {
		s.Binds = append(s.Binds, Bind{Source: d.str(), Target: d.str()})
	}
	if d.bad || d.rest != "" || len(s.Args) == 0 || s.Groups < 0 || s.Groups > maxGroups || s.UID < -1 {
		return nil, fmt.Errorf("cannot read the sandbox's own message")
	}
	return s, nil
}

type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) str() string {
	v, rest, ok := strings.Cut(d.rest, "\x00")
	if !ok {
		d.bad = true
		return ""
	}
	d.rest = rest
	return v
}

func (d *decoder) num() int {
	n, err := strconv.Atoi(d.str())
	d.bad = d.bad || err != nil
	return n
}

func (d *decoder) list() []string {
	n := d.num()
	if n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	out := make([]string, 0, n)
	for ; n > 0 && !d.bad; n-- {
		out = append(out, d.str())
	}
	return out
}
