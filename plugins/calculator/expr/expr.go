// Package expr evaluates arithmetic: numbers, + - * /, signs and parentheses.
package expr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxDepth bounds how deep parentheses and signs may nest.
const MaxDepth = 100

// Eval returns the value of an expression.
func Eval(text string) (float64, error) {
	p := &parser{rest: text}
	v, err := p.sum(0)
	if err != nil {
		return 0, err
	}
	if p.peek() != 0 {
		return 0, fmt.Errorf("cannot read %q", p.rest)
	}
	return v, nil
}

type parser struct{ rest string }

// peek returns the next byte that is not a space, 0 at the end.
func (p *parser) peek() byte {
	p.rest = strings.TrimLeft(p.rest, " \t\n")
	if p.rest == "" {
		return 0
	}
	return p.rest[0]
}

func (p *parser) next() { p.rest = p.rest[1:] }

func (p *parser) sum(depth int) (float64, error) {
	v, err := p.product(depth)
	for err == nil {
		op := p.peek()
		if op != '+' && op != '-' {
			break
		}
		p.next()
		var w float64
		if w, err = p.product(depth); op == '+' {
			v += w
		} else {
			v -= w
		}
	}
	return v, err
}

func (p *parser) product(depth int) (float64, error) {
	v, err := p.factor(depth)
	for err == nil {
		op := p.peek()
		if op != '*' && op != '/' {
			break
		}
		p.next()
		var w float64
		if w, err = p.factor(depth); err != nil {
			break
		}
		switch {
		case op == '*':
			v *= w
		case w == 0:
			return 0, errors.New("division by zero")
		default:
			v /= w
		}
	}
	return v, err
}

func (p *parser) factor(depth int) (float64, error) {
	if depth > MaxDepth {
		return 0, errors.New("nested too deep")
	}
	switch c := p.peek(); {
	case c == '-':
		p.next()
		v, err := p.factor(depth + 1)
		return -v, err
	case c == '(':
		p.next()
		v, err := p.sum(depth + 1)
		if err != nil {
			return 0, err
		}
		if p.peek() != ')' {
			return 0, errors.New("a parenthesis is not closed")
		}
		p.next()
		return v, nil
	case c == 0:
		return 0, errors.New("a number is missing at the end")
	}
	end := strings.IndexFunc(p.rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(p.rest)
	}
	v, err := strconv.ParseFloat(p.rest[:end], 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read a number at %q", p.rest)
	}
	p.rest = p.rest[end:]
	return v, nil
}
