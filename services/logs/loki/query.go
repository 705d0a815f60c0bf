package loki

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

// result is an answer to a question in LogQL.
type result struct {
	ResultType string `json:"resultType"` // streams, matrix or vector
	Result     any    `json:"result"`
	Stats      stats  `json:"stats"`
}

type stats struct {
	Summary summary `json:"summary"`
}

type summary struct {
	ExecTime             float64 `json:"execTime"` // seconds
	TotalEntriesReturned int     `json:"totalEntriesReturned"`
}

// stream are lines of the same labels.
type stream struct {
	Stream map[string]string `json:"stream"`
	Values []value           `json:"values"`
}

// value is a line with its time.
type value struct {
	time int64
	text string
}

// MarshalJSON writes ["NANOSECONDS","TEXT"]. What is no UTF-8 becomes U+FFFD.
func (v value) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]string{strconv.FormatInt(v.time, 10), strings.ToValidUTF8(v.text, "\uFFFD")})
}

// numbers are a series of an answer.
type numbers struct {
	Metric map[string]string `json:"metric"`
	Values []sample          `json:"values,omitempty"`
	Value  *sample           `json:"value,omitempty"`
}

// sample is a number with its time.
type sample struct {
	time  int64 // nanoseconds since 1970
	value float64
}

// MarshalJSON writes [SECONDS,"VALUE"].
func (s sample) MarshalJSON() ([]byte, error) {
	at := strconv.FormatFloat(float64(s.time/1e6)/1e3, 'f', -1, 64)
	return []byte("[" + at + `,"` + strconv.FormatFloat(s.value, 'f', -1, 64) + `"]`), nil
}

func (s *Server) parse(a *asked) (*logql.Query, error) {
	text := a.form.Get("query")
	if text == "" {
		return nil, bad("the parameter query is missing")
	}
	q, err := logql.Parse(text)
	if err != nil {
		return nil, failure{400, err}
	}
	log := q.Log
	if q.Metric != nil {
		log = q.Metric.Log
	}
	if log != nil {
		err = a.permitted(log.Matchers)
	}
	return q, err
}

func (s *Server) queryRange(a *asked) (any, error) {
	q, err := s.parse(a)
	if err != nil {
		return nil, err
	}
	start, end, err := a.span(defaultRange)
	if err != nil {
		return nil, err
	}
	if q.Log != nil {
		return s.lines(a, q.Log, start, end)
	}
	step, err := a.step(start, end)
	if err != nil {
		return nil, err
	}
	steps := search.Steps{Start: start.UnixNano(), Step: int64(step), Count: int(end.Sub(start)/step) + 1}
	series, err := search.Numbers(a, s.cfg.Source, q.Metric, steps, a.may)
	if err != nil {
		return nil, err
	}
	matrix := make([]numbers, 0, len(series))
	for _, one := range series {
		n := numbers{Metric: one.Labels.Map()}
		for i, v := range one.Values {
			if !math.IsNaN(v) {
				n.Values = append(n.Values, sample{steps.Start + int64(i)*steps.Step, v})
			}
		}
		if len(n.Values) > 0 {
			matrix = append(matrix, n)
		}
	}
	return a.success("matrix", matrix, len(matrix)), nil
}

func (s *Server) query(a *asked) (any, error) {
	q, err := s.parse(a)
	if err != nil {
		return nil, err
	}
	at := a.now
	if t := a.form.Get("time"); t != "" {
		if at, err = parseTime("time", t); err != nil {
			return nil, err
		}
	}
	if q.Log != nil {
		return s.lines(a, q.Log, at.Add(-defaultRange), at)
	}
	series, err := search.Numbers(a, s.cfg.Source, q.Metric, search.Steps{Start: at.UnixNano(), Step: 1, Count: 1}, a.may)
	if err != nil {
		return nil, err
	}
	vector := make([]numbers, 0, len(series))
	for _, one := range series {
		if v := one.Values[0]; !math.IsNaN(v) {
			vector = append(vector, numbers{Metric: one.Labels.Map(), Value: &sample{at.UnixNano(), v}})
		}
	}
	return a.success("vector", vector, len(vector)), nil
}

func (a *asked) success(kind string, data any, entries int) success {
	return success{"success", result{kind, data, stats{summary{time.Since(a.now).Seconds(), entries}}}}
}

func (s *Server) lines(a *asked, log *logql.Log, start, end time.Time) (any, error) {
	limit, err := a.limit()
	if err != nil {
		return nil, err
	}
	forward, err := a.forward()
	if err != nil {
		return nil, err
	}
	found, err := search.Lines(a, s.cfg.Source, log, search.Options{
		From: start.UnixNano(), To: end.UnixNano(), Limit: limit, Forward: forward, May: a.may,
	})
	if err != nil {
		return nil, err
	}
	return a.success("streams", streamsOf(found), len(found)), nil
}

// streamsOf puts lines together by their labels, in the order in which these come first.
func streamsOf(found []search.Line) []*stream {
	streams := []*stream{}
	known := map[string]*stream{}
	for _, l := range found {
		key := string(l.Labels.Bytes(nil))
		st := known[key]
		if st == nil {
			st = &stream{Stream: l.Labels.Map()}
			known[key] = st
			streams = append(streams, st)
		}
		st.Values = append(st.Values, value{l.Time, l.Text})
	}
	return streams
}

// logs are the labels of the logs that matchers select, with how much of each there is.
type logs struct {
	labels labels.Labels
	bytes  int
	lines  int
	chunks int
}

// maxLogs is how many logs one answer may tell of.
const maxLogs = 10000

// selectLogs finds the logs of a time that any of some selections fits; all when there is none.
func (s *Server) selectLogs(a *asked, selections [][]*labels.Matcher, usual time.Duration) ([]*logs, error) {
	start, end, err := a.span(usual)
	if err != nil {
		return nil, err
	}
	units, err := s.cfg.Source.Units(start.UnixNano(), end.UnixNano(), func(l labels.Labels) bool {
		if !a.may(l.Get("namespace")) {
			return false
		}
		for _, m := range selections {
			if search.Fits(m, l, false) || search.Fits(m, l, true) {
				return true
			}
		}
		return len(selections) == 0
	})
	var list []*logs
	known := map[string]*logs{}
	for _, u := range units {
		if u.Close != nil {
			u.Close()
		}
		key := string(u.Labels.Bytes(nil))
		l := known[key]
		if l == nil {
			l = &logs{labels: u.Labels}
			known[key] = l
			list = append(list, l)
		}
		l.bytes, l.lines, l.chunks = l.bytes+u.Bytes, l.lines+u.Lines, l.chunks+1
	}
	if err == nil && len(list) > maxLogs {
		err = bad("the selection has %d logs: at most %d can be listed; select fewer or a shorter time", len(list), maxLogs)
	}
	return list, err
}
