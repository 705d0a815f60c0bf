package logql

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Line is a line on its way through the stages of a question.
type Line struct {
	Text      []byte
	Stream    labels.Labels  // of its log
	Extracted []labels.Label // by parsers
	leveless  bool           // its level was dropped
}

// Get is the value of a label, or "".
func (l *Line) Get(name string) string {
	for _, e := range l.Extracted {
		if e.Name == name {
			return e.Value
		}
	}
	if v := l.Stream.Get(name); v != "" || name != LevelLabel || l.leveless {
		return v
	}
	return Level(l.Text)
}

// LevelLabel is a label that every line has: what Level says of it.
const LevelLabel = "detected_level"

// Labels are all of the line's, but LevelLabel.
func (l *Line) Labels() labels.Labels {
	if len(l.Extracted) == 0 {
		return l.Stream
	}
	b := labels.NewBuilder(l.Stream)
	for _, e := range l.Extracted {
		b.Set(e.Name, e.Value)
	}
	return b.Labels()
}

// Stage is one step of a question: it may refuse a line, or find labels in it.
type Stage interface {
	// Pass tells whether the line goes on.
	Pass(*Line) bool
}

// lineFilter passes lines that contain, or match, any of its texts, or none of them.
type lineFilter struct {
	texts  []string
	exprs  []*regexp.Regexp // parallel to texts; nil for those that are contained
	bytes  [][]byte
	refuse bool
}

func (f *lineFilter) Pass(l *Line) bool { return f.fits(l.Text) != f.refuse }

func (f *lineFilter) fits(line []byte) bool {
	for i, text := range f.bytes {
		if e := f.exprs[i]; e == nil && bytes.Contains(line, text) || e != nil && e.Match(line) {
			return true
		}
	}
	return false
}

// labelFilter passes lines by one label.
type labelFilter struct {
	name   string
	match  *labels.Matcher // of text, or nil
	number float64
	op     string // compares numbers
	unit   func(string) (float64, error)
}

func (f *labelFilter) Pass(l *Line) bool {
	v := l.Get(f.name)
	if f.match != nil {
		return f.match.Matches(v)
	}
	n, err := f.unit(v)
	if err != nil {
		return false
	}
	switch f.op {
	case "==", "=":
		return n == f.number
	case "!=":
		return n != f.number
	case ">":
		return n > f.number
	case ">=":
		return n >= f.number
	case "<":
		return n < f.number
	}
	return n <= f.number
}

// labelsStage leaves labels out, or with keep all others. A condition has a label left out or kept only with certain values.
type labelsStage struct {
	keep  bool
	names map[string]*labels.Matcher // nil is any value
}

func (s *labelsStage) Pass(l *Line) bool {
	out := func(name, value string) bool {
		m, named := s.names[name]
		return (named && (m == nil || m.Matches(value))) != s.keep
	}
	l.Extracted = slices.DeleteFunc(l.Extracted, func(e labels.Label) bool { return out(e.Name, e.Value) })
	any := false
	l.Stream.Range(func(e labels.Label) { any = any || out(e.Name, e.Value) })
	if any {
		b := labels.NewBuilder(l.Stream)
		l.Stream.Range(func(e labels.Label) {
			if out(e.Name, e.Value) {
				b.Del(e.Name)
			}
		})
		l.Stream = b.Labels()
	}
	l.leveless = l.leveless || out(LevelLabel, Level(l.Text))
	return true
}

// either passes what any of its stages passes, both what all pass.
type (
	either []Stage
	both   []Stage
)

func (s either) Pass(l *Line) bool {
	return slices.ContainsFunc(s, func(s Stage) bool { return s.Pass(l) })
}

func (s both) Pass(l *Line) bool {
	return !slices.ContainsFunc(s, func(s Stage) bool { return !s.Pass(l) })
}

// maxExpression is how long a regular expression may be.
const maxExpression = 4 << 10

func (p *reader) stages() (stages []Stage, err error) {
	for p.peek().kind == punctuation {
		var s Stage
		switch p.peek().text {
		case "|=", "!=", "|~", "!~":
			s, err = p.lineFilter()
		case "|>", "!>":
			return nil, fmt.Errorf("pattern filters (%s) are not known here: use a regular expression, as in |~ \"...\"", p.peek().text)
		case "|":
			p.take()
			s, err = p.pipe()
		default:
			return stages, nil
		}
		if err != nil {
			return nil, err
		}
		stages = append(stages, s)
	}
	return stages, nil
}

func (p *reader) lineFilter() (Stage, error) {
	op := p.take().text
	f := &lineFilter{refuse: op[0] == '!'}
	for {
		if p.peek().kind != quotation {
			return nil, p.unexpected("a text in quotes")
		}
		t := p.take().text
		var e *regexp.Regexp
		if op[1] == '~' {
			var err error
			if e, err = compile(t); err != nil {
				return nil, err
			}
		}
		f.texts, f.exprs, f.bytes = append(f.texts, t), append(f.exprs, e), append(f.bytes, []byte(t))
		if next := p.peek(); next.kind != word || next.text != "or" {
			return f, nil
		}
		p.take()
	}
}

func compile(text string) (*regexp.Regexp, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("the regular expression has %d bytes: at most %d are taken", len(text), maxExpression)
	}
	return regexp.Compile(text)
}

// pipe reads what follows a bar.
func (p *reader) pipe() (Stage, error) {
	t := p.peek()
	if t.kind == word {
		switch t.text {
		case "json":
			p.take()
			return parserStage(parseJSON), nil
		case "logfmt":
			p.take()
			return parserStage(parseLogfmt), nil
		case "drop", "keep":
			p.take()
			return p.labelsStage(t.text == "keep")
		case "regexp", "pattern", "unpack", "line_format", "label_format", "unwrap", "decolorize", "distinct":
			return nil, fmt.Errorf("| %s is not known here: there are | json, | logfmt, | drop, | keep and filters on labels", t.text)
		}
	}
	return p.labelFilters(0)
}

// labelsStage reads names of labels, each perhaps with a value that it must have.
func (p *reader) labelsStage(keep bool) (Stage, error) {
	s := &labelsStage{keep: keep, names: map[string]*labels.Matcher{}}
	for {
		if p.peek().kind != word {
			return nil, p.unexpected("the name of a label")
		}
		name := p.take().text
		s.names[name] = nil
		if of, conditional := matchTypes[p.peek().text]; conditional && p.peek().kind == punctuation {
			p.take()
			if p.peek().kind != quotation {
				return nil, p.unexpected("a text in quotes")
			}
			m, err := labels.NewMatcher(of, name, p.take().text)
			if err != nil {
				return nil, err
			}
			s.names[name] = m
		}
		if !p.accept(",") {
			return s, nil
		}
	}
}

var matchTypes = map[string]labels.MatchType{"=": labels.MatchEqual, "==": labels.MatchEqual, "!=": labels.MatchNotEqual, "=~": labels.MatchRegexp, "!~": labels.MatchNotRegexp}

func (p *reader) isWord(text string) bool { return p.peek().kind == word && p.peek().text == text }

// labelFilters reads alternatives of filters.
func (p *reader) labelFilters(depth int) (Stage, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the filter is nested deeper than %d times", maxDepth)
	}
	var any either
	for {
		var all both
		for {
			s, err := p.labelFilter(depth)
			if err != nil {
				return nil, err
			}
			if all = append(all, s); !p.isWord("and") && !p.is(",") {
				break
			}
			p.take()
		}
		if any = append(any, all); !p.isWord("or") {
			return any, nil
		}
		p.take()
	}
}

func (p *reader) labelFilter(depth int) (Stage, error) {
	if p.accept("(") {
		s, err := p.labelFilters(depth + 1)
		if err == nil {
			err = p.expect(")")
		}
		return s, err
	}
	if p.peek().kind != word {
		return nil, p.unexpected("a filter on a label, as in level=\"error\"")
	}
	f := &labelFilter{name: p.take().text}
	op := p.take()
	value := p.take()
	if of, ok := matchTypes[op.text]; ok && value.kind == quotation {
		m, err := labels.NewMatcher(of, f.name, value.text)
		f.match = m
		return f, err
	}
	if f.op = op.text; !slices.Contains([]string{"==", "=", "!=", ">", ">=", "<", "<="}, op.text) || value.kind != number {
		return nil, fmt.Errorf("parse error at position %d: expected a comparison of %s, as in %s=\"text\" or %s>=500", op.at+1, f.name, f.name, f.name)
	}
	for _, unit := range []func(string) (float64, error){plain, duration, size} {
		if n, err := unit(value.text); err == nil {
			f.number, f.unit = n, unit
			return f, nil
		}
	}
	return nil, fmt.Errorf("parse error at position %d: %q is neither a number nor a length of time nor a size", value.at+1, value.text)
}

func plain(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

func size(s string) (float64, error) {
	n, err := units.FromHumanSize(s)
	return float64(n), err
}

func duration(s string) (float64, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d.Seconds(), nil
	}
	d, err := model.ParseDuration(s) // days, weeks and years
	return time.Duration(d).Seconds(), err
}
