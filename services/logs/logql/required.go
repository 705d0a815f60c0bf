package logql

import (
	"regexp/syntax"
	"slices"
	"strings"
)

// Required are texts of which a line must contain each to pass the stages; the case of ASCII letters
// is left open. There may be none.
func (l *Log) Required() (texts [][]byte) {
	for _, s := range l.Stages {
		f, ok := s.(*lineFilter)
		if !ok {
			return texts // what follows may see another line
		}
		if f.refuse || len(f.texts) != 1 {
			continue
		}
		text := f.texts[0]
		if f.exprs[0] != nil {
			e, err := syntax.Parse(text, syntax.Perl)
			if err != nil {
				continue
			}
			text = literal(e.Simplify())
		}
		if text != "" {
			texts = append(texts, []byte(text))
		}
	}
	return texts
}

// Contained is a text that a line must contain as it is, for a quick look at many lines; nil when there is
// none. It is one of the first stage.
func (l *Log) Contained() []byte {
	if len(l.Stages) == 0 {
		return nil
	}
	f, ok := l.Stages[0].(*lineFilter)
	if !ok || f.refuse || len(f.bytes) != 1 {
		return nil
	}
	if f.exprs[0] == nil {
		return f.bytes[0]
	}
	e, err := syntax.Parse(f.texts[0], syntax.Perl)
	if err != nil || folds(e) {
		return nil
	}
	return []byte(literal(e.Simplify()))
}

// folds tells whether an expression leaves the case of a letter open anywhere.
func folds(e *syntax.Regexp) bool {
	return e.Flags&syntax.FoldCase != 0 || slices.ContainsFunc(e.Sub, folds)
}

// literal is the longest text that every match of an expression contains.
func literal(e *syntax.Regexp) string {
	switch e.Op {
	case syntax.OpLiteral:
		return literalText(e)
	case syntax.OpCapture, syntax.OpPlus:
		return literal(e.Sub[0])
	case syntax.OpConcat:
		longest := ""
		for _, sub := range e.Sub {
			if t := literal(sub); len(t) > len(longest) {
				longest = t
			}
		}
		return longest
	}
	return ""
}

// literalText is the text of a literal. Where the case is open, letters that equal one outside ASCII
// (k: the Kelvin sign, s: the long s) end it.
func literalText(e *syntax.Regexp) string {
	if e.Flags&syntax.FoldCase == 0 {
		return string(e.Rune)
	}
	longest := ""
	for _, part := range strings.FieldsFunc(string(e.Rune), func(r rune) bool { return r > 127 || strings.ContainsRune("kKsS", r) }) {
		if len(part) > len(longest) {
			longest = part
		}
	}
	return longest
}
