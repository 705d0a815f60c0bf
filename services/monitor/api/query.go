package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/jsonutil"
	"github.com/prometheus/prometheus/util/stats"
)

// maxPoints bounds the points of one series in an answer: a minute's resolution for a week.
const maxPoints = 11_000

var errTruncated = errors.New("results truncated due to limit")

func (a *API) query(r *http.Request) (any, annotations.Annotations, error) {
	at, err := timeOf(r, "time", time.Now())
	if err != nil {
		return nil, nil, err
	}
	return a.run(r, func(ctx context.Context, opts promql.QueryOpts) (promql.Query, error) {
		return a.cfg.Engine.NewInstantQuery(ctx, a.cfg.Storage, opts, r.Form.Get("query"), at)
	})
}

func (a *API) queryRange(r *http.Request) (any, annotations.Annotations, error) {
	start, err := timeOf(r, "start", time.Time{})
	if err != nil {
		return nil, nil, err
	}
	end, err := timeOf(r, "end", time.Time{})
	if err == nil && end.Before(start) {
		err = bad("end", errors.New("end timestamp must not be before start time"))
	}
	if err != nil {
		return nil, nil, err
	}
	step, err := duration("step", r.Form.Get("step"))
	switch {
	case err != nil:
		return nil, nil, err
	case step <= 0:
		return nil, nil, bad("step", errors.New("zero or negative query resolution step widths are not accepted. Try a positive integer"))
	case end.Sub(start)/step > maxPoints:
		return nil, nil, &refusal{"bad_data", http.StatusBadRequest,
			errors.New("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)")}
	}
	return a.run(r, func(ctx context.Context, opts promql.QueryOpts) (promql.Query, error) {
		return a.cfg.Engine.NewRangeQuery(ctx, a.cfg.Storage, opts, r.Form.Get("query"), start, end, step)
	})
}

// run makes a query and waits for its result.
func (a *API) run(r *http.Request, make func(context.Context, promql.QueryOpts) (promql.Query, error)) (any, annotations.Annotations, error) {
	ctx := r.Context()
	limit, err := number(r, "limit", 0)
	if err != nil {
		return nil, nil, err
	}
	if s := r.Form.Get("timeout"); s != "" {
		timeout, err := duration("timeout", s)
		if err != nil {
			return nil, nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var lookback time.Duration
	if s := r.Form.Get("lookback_delta"); s != "" {
		if lookback, err = duration("lookback_delta", s); err != nil {
			return nil, nil, err
		}
	}
	query, err := make(ctx, promql.NewPrometheusQueryOpts(r.Form.Get("stats") == "all", lookback))
	if err != nil {
		return nil, nil, bad("query", err)
	}
	defer query.Close()
	found := query.Exec(ctx)
	if found.Err != nil {
		return nil, nil, found.Err
	}
	warnings := found.Warnings
	value, cut := truncate(found.Value, limit)
	if cut {
		warnings = warnings.Add(errTruncated)
	}
	answer := newResult(value) // before Close, which takes the result's memory back
	if r.Form.Get("stats") != "" {
		answer.stats = stats.NewQueryStats(query.Stats())
	}
	return answer, warnings, nil
}

func truncate(v parser.Value, limit int) (parser.Value, bool) {
	switch v := v.(type) {
	case promql.Matrix:
		if limit > 0 && len(v) > limit {
			return v[:limit], true
		}
	case promql.Vector:
		if limit > 0 && len(v) > limit {
			return v[:limit], true
		}
	}
	return v, false
}

func (a *API) formatQuery(r *http.Request) (any, annotations.Annotations, error) {
	expr, err := a.cfg.Parser.ParseExpr(r.Form.Get("query"))
	if err != nil {
		return nil, nil, bad("query", err)
	}
	return expr.Pretty(0), nil, nil
}

// exemplars are not kept.
func (a *API) exemplars(r *http.Request) (any, annotations.Annotations, error) {
	if _, err := a.cfg.Parser.ParseExpr(r.Form.Get("query")); err != nil {
		return nil, nil, bad("query", err)
	}
	return []any{}, nil, nil
}

// result is what a query found, encoded.
type result struct {
	kind  parser.ValueType
	value []byte // JSON
	stats stats.QueryStats
}

func newResult(v parser.Value) *result {
	out := jsoniter.NewStream(jsoniter.ConfigCompatibleWithStandardLibrary, nil, 512)
	switch v := v.(type) {
	case promql.Vector:
		array(out, v, encodeSample)
	case promql.Matrix:
		array(out, v, encodeSeries)
	case promql.Scalar:
		encodePoint(out, v.T, v.V, nil)
	case promql.String:
		out.WriteArrayStart()
		jsonutil.MarshalTimestamp(v.T, out)
		out.WriteMore()
		out.WriteString(v.V)
		out.WriteArrayEnd()
	default:
		out.WriteNil()
	}
	return &result{kind: v.Type(), value: out.Buffer()}
}

func (q *result) encode(out *jsoniter.Stream) {
	out.WriteObjectStart()
	out.WriteObjectField("resultType")
	out.WriteString(string(q.kind))
	out.WriteMore()
	out.WriteObjectField("result")
	_, _ = out.Write(q.value)
	if q.stats != nil {
		out.WriteMore()
		out.WriteObjectField("stats")
		out.WriteVal(q.stats)
	}
	out.WriteObjectEnd()
}

func array[T any](out *jsoniter.Stream, list []T, encode func(*jsoniter.Stream, T)) {
	out.WriteArrayStart()
	for i, v := range list {
		if i > 0 {
			out.WriteMore()
		}
		encode(out, v)
	}
	out.WriteArrayEnd()
}

func encodeLabels(out *jsoniter.Stream, set labels.Labels) {
	out.WriteObjectField("metric")
	out.WriteObjectStart()
	first := true
	set.Range(func(l labels.Label) {
		if !first {
			out.WriteMore()
		}
		first = false
		out.WriteObjectField(l.Name)
		out.WriteString(l.Value)
	})
	out.WriteObjectEnd()
}

func encodePoint(out *jsoniter.Stream, t int64, f float64, h *histogram.FloatHistogram) {
	out.WriteArrayStart()
	jsonutil.MarshalTimestamp(t, out)
	out.WriteMore()
	if h != nil {
		jsonutil.MarshalHistogram(h, out)
	} else {
		jsonutil.MarshalFloat(f, out)
	}
	out.WriteArrayEnd()
}

func encodeSample(out *jsoniter.Stream, s promql.Sample) {
	out.WriteObjectStart()
	encodeLabels(out, s.Metric)
	out.WriteMore()
	if s.H != nil {
		out.WriteObjectField("histogram")
	} else {
		out.WriteObjectField("value")
	}
	encodePoint(out, s.T, s.F, s.H)
	out.WriteObjectEnd()
}

func encodeSeries(out *jsoniter.Stream, s promql.Series) {
	out.WriteObjectStart()
	encodeLabels(out, s.Metric)
	if len(s.Floats) > 0 {
		out.WriteMore()
		out.WriteObjectField("values")
		array(out, s.Floats, func(out *jsoniter.Stream, p promql.FPoint) { encodePoint(out, p.T, p.F, nil) })
	}
	if len(s.Histograms) > 0 {
		out.WriteMore()
		out.WriteObjectField("histograms")
		array(out, s.Histograms, func(out *jsoniter.Stream, p promql.HPoint) { encodePoint(out, p.T, 0, p.H) })
	}
	out.WriteObjectEnd()
}
