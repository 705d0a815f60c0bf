package search

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/logql"
)

// Series is an answer in numbers.
type Series struct {
	Labels labels.Labels
	Values []float64 // one for each step; NaN where there is none
}

// Steps are the times for which numbers are asked, in nanoseconds since 1970.
type Steps struct {
	Start, Step int64
	Count       int
}

func (s Steps) last() int64 { return s.Start + int64(s.Count-1)*s.Step }

const (
	// maxSteps and maxSeries bound an answer in numbers.
	maxSteps  = 11000
	maxSeries = 1000
)

// Numbers answers a question for numbers.
func Numbers(ctx context.Context, from Source, m *logql.Metric, steps Steps, may func(string) bool) ([]Series, error) {
	if steps.Count > maxSteps {
		return nil, fmt.Errorf("the answer would have %d steps: ask for a longer step or a shorter time, of at most %d steps", steps.Count, maxSteps)
	}
	if m.Function == "vector" {
		return []Series{{labels.EmptyLabels(), slices.Repeat([]float64{m.Value}, steps.Count)}}, nil
	}
	series, err := countLines(ctx, from, m, steps, may)
	if err != nil {
		return nil, err
	}
	for _, a := range m.Aggregations {
		series = aggregate(a, series, steps.Count)
	}
	slices.SortFunc(series, func(x, y Series) int { return labels.Compare(x.Labels, y.Labels) })
	return series, nil
}

// tally counts lines by series. For each series it has one more number than there are steps: what is added at
// a step counts from there on.
type tally struct {
	steps  Steps
	window int64
	bytes  bool               // rather than lines
	by     *logql.Aggregation // what labels are kept, or nil for all
	series map[string]*Series
}

// between are the steps of whose windows a time is part: from the first one to before the second.
func (t *tally) between(at int64) (int, int) {
	first := ceilDiv(at-t.steps.Start, t.steps.Step)
	beyond := ceilDiv(at+t.window-t.steps.Start, t.steps.Step)
	return int(min(max(first, 0), int64(t.steps.Count))), int(min(max(beyond, 0), int64(t.steps.Count)))
}

func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a > 0) == (b > 0) {
		q++
	}
	return q
}

var errTooMany = fmt.Errorf("the answer has more than %d series: join them, as in sum by (app) (...)", maxSeries)

// of is the series of a line's labels.
func (t *tally) of(l *logql.Line) (*Series, error) {
	kept := keptLabels(t.by, l)
	key := string(kept.Bytes(nil))
	s := t.series[key]
	if s == nil {
		if len(t.series) >= maxSeries {
			return nil, errTooMany
		}
		s = &Series{kept, make([]float64, t.steps.Count+1)}
		t.series[key] = s
	}
	return s, nil
}

func keptLabels(by *logql.Aggregation, l *logql.Line) labels.Labels {
	switch {
	case by == nil:
		return l.Labels()
	case by.Without:
		return labels.NewBuilder(l.Labels()).Del(by.By...).Labels()
	}
	m := make(map[string]string, len(by.By))
	for _, name := range by.By {
		if v := l.Get(name); v != "" {
			m[name] = v
		}
	}
	return labels.FromMap(m)
}

// add counts a line, or several of the same window.
func (t *tally) add(s *Series, at int64, amount float64) {
	if first, beyond := t.between(at); first < beyond {
		s.Values[first] += amount
		s.Values[beyond] -= amount
	}
}

// countLines makes one series of each set of labels.
func countLines(ctx context.Context, from Source, m *logql.Metric, steps Steps, may func(string) bool) ([]Series, error) {
	// A window leaves its begin out and has its end in it.
	r := newReading(m.Log, steps.Start-int64(m.Range)+1, steps.last()+1, may)
	units, err := from.Units(r.from, r.to-1, r.selected.fits)
	defer closeAll(units)
	if err != nil {
		return nil, err
	}
	var by *logql.Aggregation
	if len(m.Aggregations) > 0 && m.Aggregations[0].Operation == "sum" {
		by = &m.Aggregations[0] // the others are all the same for what it leaves out
	}
	var tallies [workers]*tally
	for i := range tallies {
		tallies[i] = &tally{steps, int64(m.Range), strings.HasPrefix(m.Function, "bytes"), by, map[string]*Series{}}
	}
	r.timesOnly = len(m.Log.Stages) == 0 && !tallies[0].bytes && !tallies[0].needsText()
	err = inParallel(ctx, units, func(w int, u *Unit, s *archive.Scratch) error { return tallies[w].read(ctx, r, u, s) })
	if err != nil {
		return nil, err
	}
	total := tallies[0]
	for key, s := range tallies[1].series {
		if same := total.series[key]; same != nil {
			for i := range s.Values {
				same.Values[i] += s.Values[i]
			}
		} else {
			total.series[key] = s
		}
	}
	if len(total.series) > maxSeries {
		return nil, errTooMany
	}
	scale := 1.0
	if strings.HasSuffix(m.Function, "rate") {
		scale = m.Range.Seconds()
	}
	var out []Series
	for _, s := range total.series {
		out = append(out, summed(s, steps.Count, scale))
	}
	return out, nil
}

// summed makes numbers of what is added at each step.
func summed(s *Series, count int, scale float64) Series {
	sum := 0.0
	for i := range count {
		sum += s.Values[i]
		if s.Values[i] = sum / scale; sum == 0 {
			s.Values[i] = math.NaN()
		}
	}
	s.Values = s.Values[:count]
	return *s
}

// read counts the lines of one piece.
func (t *tally) read(ctx context.Context, r *reading, u *Unit, s *archive.Scratch) error {
	if u.Lines > 0 && r.timesOnly && u.Min >= r.from && u.Max < r.to {
		if a, b := t.between(u.Min); a < b {
			if c, d := t.between(u.Max); a == c && b == d {
				return t.whole(r, u) // its lines need not be read
			}
		}
	}
	var same [2]*Series // of all lines of a stream
	fixed := len(r.log.Stages) == 0 && !t.needsText()
	var failure error
	err := r.match(ctx, u, s, func(l *logql.Line, e archive.Entry) bool {
		series := same[streamIndex(e.Stderr)]
		if series == nil {
			if series, failure = t.of(l); failure != nil {
				return false
			}
			if fixed {
				same[streamIndex(e.Stderr)] = series
			}
		}
		amount := 1.0
		if t.bytes {
			amount = float64(len(e.Line))
		}
		t.add(series, e.Time, amount)
		return true
	})
	return errors.Join(failure, err, ctx.Err())
}

// needsText tells whether labels come from what a line says.
func (t *tally) needsText() bool {
	return t.by != nil && !t.by.Without && slices.Contains(t.by.By, logql.LevelLabel)
}

// whole counts a piece of whose lines all are in the same windows.
func (t *tally) whole(r *reading, u *Unit) error {
	for stream, n := range [2]int{u.Lines - u.Stderr, u.Stderr} {
		if n == 0 || !r.selected.streams[stream] {
			continue
		}
		series, err := t.of(&logql.Line{Stream: WithStream(u.Labels, stream == 1)})
		if err != nil {
			return err
		}
		t.add(series, u.Min, float64(n))
	}
	return nil
}

// aggregate joins series.
func aggregate(a logql.Aggregation, series []Series, steps int) []Series {
	if a.Operation == "topk" || a.Operation == "bottomk" {
		return best(a, series, steps)
	}
	groups := map[string]*Series{}
	counts := map[string][]float64{}
	for _, s := range series {
		kept := keptLabels(&a, &logql.Line{Stream: s.Labels})
		key := string(kept.Bytes(nil))
		g := groups[key]
		if g == nil {
			g = &Series{kept, slices.Repeat([]float64{math.NaN()}, steps)}
			groups[key], counts[key] = g, make([]float64, steps)
		}
		for i, v := range s.Values {
			if !math.IsNaN(v) {
				g.Values[i] = join(a.Operation, g.Values[i], v)
				counts[key][i]++
			}
		}
	}
	var out []Series
	for key, g := range groups {
		for i, n := range counts[key] {
			if n > 0 && a.Operation == "avg" {
				g.Values[i] /= n
			}
		}
		out = append(out, *g)
	}
	return out
}

// join adds a value to what others of the group have made.
func join(operation string, have, v float64) float64 {
	none := math.IsNaN(have)
	switch {
	case operation == "count" && none:
		return 1
	case operation == "count":
		return have + 1
	case none:
		return v
	case operation == "min":
		return min(have, v)
	case operation == "max":
		return max(have, v)
	}
	return have + v // sum and avg
}

// best keeps the K greatest or least values of each step.
func best(a logql.Aggregation, series []Series, steps int) []Series {
	out := make([]Series, len(series))
	for i, s := range series {
		out[i] = Series{s.Labels, slices.Repeat([]float64{math.NaN()}, steps)}
	}
	groups := map[string][]int{}
	for i, s := range series {
		key := string(keptLabels(&a, &logql.Line{Stream: s.Labels}).Bytes(nil))
		groups[key] = append(groups[key], i)
	}
	for _, members := range groups {
		for step := range steps {
			rank := slices.DeleteFunc(slices.Clone(members), func(i int) bool { return math.IsNaN(series[i].Values[step]) })
			slices.SortStableFunc(rank, func(x, y int) int {
				if v, w := series[x].Values[step], series[y].Values[step]; v != w && (v > w) == (a.Operation == "topk") {
					return -1
				} else if v != w {
					return 1
				}
				return 0
			})
			for _, i := range rank[:min(a.K, len(rank))] {
				out[i].Values[step] = series[i].Values[step]
			}
		}
	}
	return slices.DeleteFunc(out, func(s Series) bool {
		return !slices.ContainsFunc(s.Values, func(v float64) bool { return !math.IsNaN(v) })
	})
}
