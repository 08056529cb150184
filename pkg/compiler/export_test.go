package compiler

import "github.com/solo-run/solo/pkg/solo"

// Analyse is what parsing alone tells, for the fuzzer.
func (c *Compiler) Analyse(src solo.Source) {
	a := c.analyse(src)
	w := &workspace{c: c, a: a}
	w.goMod()
	for _, f := range src.Files {
		if got := withoutLineDirectives(f.Data); len(got) != len(f.Data) {
			panic("a byte has moved")
		}
		w.diagnostics(f.Data)
	}
}
