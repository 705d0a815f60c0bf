package logql

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Query is a question. Either Metric is set, or it asks for lines and Log is.
type Query struct {
	Log    *Log
	Metric *Metric
}

// Log selects lines.
type Log struct {
	Matchers []*labels.Matcher
	Stages   []Stage
}

// Metric counts lines.
type Metric struct {
	// Function is one of count_over_time, rate, bytes_over_time, bytes_rate; or vector.
	Function string
	Log      *Log
	Range    time.Duration
	Value    float64 // of vector
	// Aggregations are applied one after the other.
	Aggregations []Aggregation
}

// Aggregation joins series.
type Aggregation struct {
	Operation string // sum, min, max, avg, count, topk or bottomk
	K         int    // of topk and bottomk
	By        []string
	Without   bool
}

// maxQuery is how long a question may be.
const maxQuery = 16 << 10

var (
	rangeFunctions = map[string]bool{"count_over_time": true, "rate": true, "bytes_over_time": true, "bytes_rate": true}
	aggregations   = map[string]bool{"sum": true, "min": true, "max": true, "avg": true, "count": true, "topk": true, "bottomk": true}
)

// Parse reads a question. Errors name what is wrong and where.
func Parse(text string) (*Query, error) {
	if len(text) > maxQuery {
		return nil, fmt.Errorf("the query has %d bytes: at most %d are read", len(text), maxQuery)
	}
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	p := &reader{tokens: tokens, text: text}
	q := &Query{}
	if p.peek().kind == selector {
		q.Log, err = p.log()
	} else {
		q.Metric, err = p.metric(0)
	}
	if err == nil && p.peek().kind != end {
		err = p.unexpected("the end of the query")
	}
	if err != nil {
		return nil, err
	}
	return q, nil
}

// reader reads tokens from left to right.
type reader struct {
	tokens []token
	text   string
}

func (p *reader) peek() token { return p.tokens[0] }

func (p *reader) take() token {
	t := p.tokens[0]
	if t.kind != end {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *reader) is(symbol string) bool {
	return p.peek().kind == punctuation && p.peek().text == symbol
}

// accept takes a symbol when it is next.
func (p *reader) accept(symbol string) bool {
	if p.is(symbol) {
		p.take()
		return true
	}
	return false
}

func (p *reader) expect(symbol string) error {
	if !p.accept(symbol) {
		return p.unexpected(strconv.Quote(symbol))
	}
	return nil
}

func (p *reader) unexpected(wanted string) error {
	t := p.peek()
	if t.kind == end {
		return fmt.Errorf("parse error at the end: expected %s", wanted)
	}
	return fmt.Errorf("parse error at position %d: expected %s, found %q", t.at+1, wanted, t.text)
}

func (p *reader) log() (*Log, error) {
	m, err := p.selector()
	if err != nil {
		return nil, err
	}
	l := &Log{Matchers: m}
	l.Stages, err = p.stages()
	return l, err
}

// selectors are PromQL's, whose parser reads them.
var selectors = parser.NewParser(parser.Options{})

func (p *reader) selector() ([]*labels.Matcher, error) {
	if p.peek().kind != selector {
		return nil, p.unexpected(`a stream selector such as {namespace="shop"}`)
	}
	t := p.take()
	m, err := selectors.ParseMetricSelector(t.text)
	if err != nil {
		return nil, fmt.Errorf("parse error in %s: %s", t.text, strings.TrimPrefix(err.Error(), "parse error: "))
	}
	return m, nil
}

// Selector reads a stream selector alone, as in ?match[]=.
func Selector(text string) ([]*labels.Matcher, error) {
	q, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if q.Log == nil || len(q.Log.Stages) > 0 {
		return nil, fmt.Errorf("%s is not a stream selector such as {namespace=\"shop\"}", text)
	}
	return q.Log.Matchers, nil
}

// maxDepth is how deep expressions may be nested.
const maxDepth = 20

func (p *reader) metric(depth int) (*Metric, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the query is nested deeper than %d times", maxDepth)
	}
	if p.accept("(") {
		m, err := p.metric(depth + 1)
		if err == nil {
			err = p.expect(")")
		}
		return m, err
	}
	if p.peek().kind != word {
		return nil, p.unexpected("a stream selector, or a function of one")
	}
	name := p.take().text
	switch {
	case name == "vector":
		return p.vector()
	case rangeFunctions[name]:
		return p.rangeFunction(name)
	case aggregations[name]:
		return p.aggregation(name, depth)
	}
	return nil, fmt.Errorf("%s is not known here: there are count_over_time, rate, bytes_over_time and bytes_rate, and sum, min, max, avg, count, topk and bottomk of them", name)
}

func (p *reader) vector() (*Metric, error) {
	m := &Metric{Function: "vector"}
	for {
		if err := p.expect("("); err != nil {
			return nil, err
		}
		if p.peek().kind != number {
			return nil, p.unexpected("a number")
		}
		v, err := strconv.ParseFloat(p.take().text, 64)
		if err != nil {
			return nil, err
		}
		m.Value += v
		if err := p.expect(")"); err != nil {
			return nil, err
		}
		if !p.accept("+") {
			return m, nil
		}
		if t := p.take(); t.text != "vector" {
			return nil, fmt.Errorf("parse error at position %d: only vectors can be added to a vector", t.at+1)
		}
	}
}

func (p *reader) rangeFunction(name string) (m *Metric, err error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	m = &Metric{Function: name}
	if m.Log, err = p.log(); err != nil {
		return nil, err
	}
	if err := p.expect("["); err != nil {
		return nil, err
	}
	t := p.take()
	d, err := model.ParseDuration(t.text)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("parse error at position %d: %q is not a length of time such as 5m", t.at+1, t.text)
	}
	m.Range = time.Duration(d)
	if err := p.expect("]"); err != nil {
		return nil, err
	}
	more, err := p.stages() // they may also follow the range
	if err != nil {
		return nil, err
	}
	m.Log.Stages = append(m.Log.Stages, more...)
	return m, p.expect(")")
}

func (p *reader) aggregation(name string, depth int) (*Metric, error) {
	a := Aggregation{Operation: name}
	if err := p.grouping(&a); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	if name == "topk" || name == "bottomk" {
		k, err := strconv.Atoi(p.take().text)
		if err != nil || k < 1 {
			return nil, fmt.Errorf("%s wants a number first, as in %s(5, ...)", name, name)
		}
		if a.K = k; !p.accept(",") {
			return nil, p.unexpected(`","`)
		}
	}
	m, err := p.metric(depth + 1)
	if err != nil {
		return nil, err
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	if err := p.grouping(&a); err != nil {
		return nil, err
	}
	m.Aggregations = append(m.Aggregations, a)
	return m, nil
}

func (p *reader) grouping(a *Aggregation) error {
	if t := p.peek(); t.kind != word || t.text != "by" && t.text != "without" {
		return nil
	}
	a.Without = p.take().text == "without"
	a.By = []string{}
	if err := p.expect("("); err != nil {
		return err
	}
	for !p.accept(")") {
		if p.peek().kind != word {
			return p.unexpected("the name of a label")
		}
		a.By = append(a.By, p.take().text)
		if !p.is(")") && !p.accept(",") {
			return p.unexpected(`"," or ")"`)
		}
	}
	return nil
}
