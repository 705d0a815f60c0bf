package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/stats"
	"github.com/prometheus/prometheus/util/teststorage"
)

// Upstream's own scripts of what every PromQL expression must answer, asked through the HTTP API.
func TestUpstreamsScriptsThroughTheAPI(t *testing.T) {
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	promqltest.RunBuiltinTestsWithStorage(t, &overHTTP{engine}, func(t testing.TB) storage.Storage {
		return teststorage.New(t, func(o *tsdb.Options) {
			o.EnableSTStorage, o.XOR2EncodingAllowed = true, true
			o.FloatChunkEncoding, o.EnableHistogramSTEncoding = chunkenc.EncXOR2, true
		})
	})
}

// overHTTP is a query engine whose queries are requests to the API. It implements promql.QueryEngine.
type overHTTP struct{ *promql.Engine }

type request struct {
	promql.Query // the engine's own, for what JSON does not carry
	api          *API
	path         string
	form         url.Values
}

func (e *overHTTP) request(own promql.Query, q storage.Queryable, path string, form url.Values) *request {
	return &request{own, New(Config{Engine: e.Engine, Parser: parser.NewParser(promqltest.TestParserOpts), Storage: q}), path, form}
}

func at(t time.Time) string {
	return strconv.FormatFloat(float64(timestamp.FromTime(t))/1000, 'f', 3, 64)
}

func (e *overHTTP) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, when time.Time) (promql.Query, error) {
	own, err := e.Engine.NewInstantQuery(ctx, q, opts, text, when)
	if err != nil {
		return nil, err
	}
	return e.request(own, q, "query", url.Values{"query": {text}, "time": {at(when)}}), nil
}

func (e *overHTTP) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration) (promql.Query, error) {
	own, err := e.Engine.NewRangeQuery(ctx, q, opts, text, start, end, step)
	if err != nil {
		return nil, err
	}
	return e.request(own, q, "query_range", url.Values{
		"query": {text}, "start": {at(start)}, "end": {at(end)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)}}), nil
}

func (r *request) Stats() *stats.Statistics { return r.Query.Stats() }

// answered is the API's answer.
type answered struct {
	Status, Error string
	Warnings      []string
	Infos         []string
	Data          struct {
		ResultType string
		Result     json.RawMessage
	}
}

// Exec asks the API, and takes from the engine's own result only the insides of histograms, whose
// count and sum must be the same, and the annotations' types.
func (r *request) Exec(ctx context.Context) *promql.Result {
	own := r.Query.Exec(ctx)
	w := httptest.NewRecorder()
	post := httptest.NewRequest("POST", "/api/v1/"+r.path, strings.NewReader(r.form.Encode()))
	post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.api.ServeHTTP(w, post)
	var a answered
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		return &promql.Result{Err: fmt.Errorf("decode %s: %w", w.Body, err)}
	}
	if a.Status != "success" {
		if own.Err == nil || own.Err.Error() != a.Error {
			return &promql.Result{Err: fmt.Errorf("the API says %q, the engine %v", a.Error, own.Err)}
		}
		return &promql.Result{Err: errors.New(a.Error)}
	}
	if own.Err != nil {
		return &promql.Result{Err: fmt.Errorf("the API answers, the engine says %w", own.Err)}
	}
	if warnings, infos := own.Warnings.CountWarningsAndInfo(); min(warnings, 11) != len(a.Warnings) || min(infos, 11) != len(a.Infos) {
		return &promql.Result{Err: fmt.Errorf("the API has warnings %q and infos %q, the engine %d and %d", a.Warnings, a.Infos, warnings, infos)}
	}
	value, err := decode(&a, own.Value)
	return &promql.Result{Value: value, Err: err, Warnings: own.Warnings}
}

type point [2]json.RawMessage

func (p point) time() int64 {
	f, _ := strconv.ParseFloat(string(p[0]), 64)
	if f < 0 {
		return int64(f*1000 - 0.5)
	}
	return int64(f*1000 + 0.5)
}

func (p point) value() (float64, error) {
	var s string
	if err := json.Unmarshal(p[1], &s); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(s, 64)
}

// like gives the engine's histogram when the API's has the same count and sum.
func (p point) like(own *histogram.FloatHistogram) (*histogram.FloatHistogram, error) {
	var h struct{ Count, Sum string }
	if err := json.Unmarshal(p[1], &h); err != nil {
		return nil, err
	}
	for text, want := range map[string]float64{h.Count: own.Count, h.Sum: own.Sum} {
		if got, err := strconv.ParseFloat(text, 64); err != nil || got != want && got == got {
			return nil, fmt.Errorf("a histogram has %s, want %v", text, want)
		}
	}
	return own, nil
}

type series struct {
	Metric     map[string]string
	Value      *point
	Histogram  *point
	Values     []point
	Histograms []point
}

func decode(a *answered, own parser.Value) (parser.Value, error) {
	switch own := own.(type) {
	case promql.Scalar:
		var p point
		if err := json.Unmarshal(a.Data.Result, &p); err != nil {
			return nil, err
		}
		v, err := p.value()
		return promql.Scalar{T: p.time(), V: v}, err
	case promql.String:
		var p point
		if err := json.Unmarshal(a.Data.Result, &p); err != nil {
			return nil, err
		}
		s := promql.String{T: p.time()}
		return s, errors.Join(json.Unmarshal(p[1], &s.V), nil)
	case promql.Vector:
		return decodeVector(a, own)
	case promql.Matrix:
		return decodeMatrix(a, own)
	}
	return nil, fmt.Errorf("result of type %T", own)
}

func decodeVector(a *answered, own promql.Vector) (promql.Vector, error) {
	var list []series
	if err := json.Unmarshal(a.Data.Result, &list); err != nil {
		return nil, err
	}
	if a.Data.ResultType != "vector" || len(list) != len(own) {
		return nil, fmt.Errorf("%d samples of a %s, want %d", len(list), a.Data.ResultType, len(own))
	}
	vector := promql.Vector{}
	var err error
	for i, s := range list {
		sample := promql.Sample{Metric: labels.FromMap(s.Metric), DropName: own[i].DropName}
		switch {
		case s.Value != nil:
			sample.T = s.Value.time()
			sample.F, err = s.Value.value()
		case s.Histogram != nil && own[i].H != nil:
			sample.T = s.Histogram.time()
			sample.H, err = s.Histogram.like(own[i].H)
		default:
			err = fmt.Errorf("no value in %+v", s)
		}
		if err != nil {
			return nil, err
		}
		vector = append(vector, sample)
	}
	return vector, nil
}

func decodeMatrix(a *answered, own promql.Matrix) (promql.Matrix, error) {
	var list []series
	if err := json.Unmarshal(a.Data.Result, &list); err != nil {
		return nil, err
	}
	if a.Data.ResultType != "matrix" || len(list) != len(own) {
		return nil, fmt.Errorf("%d series of a %s, want %d", len(list), a.Data.ResultType, len(own))
	}
	matrix := promql.Matrix{}
	for i, s := range list {
		of := promql.Series{Metric: labels.FromMap(s.Metric)}
		for _, p := range s.Values {
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			of.Floats = append(of.Floats, promql.FPoint{T: p.time(), F: v})
		}
		if len(s.Histograms) != len(own[i].Histograms) {
			return nil, fmt.Errorf("%d histograms, want %d", len(s.Histograms), len(own[i].Histograms))
		}
		for j, p := range s.Histograms {
			h, err := p.like(own[i].Histograms[j].H)
			if err != nil {
				return nil, err
			}
			of.Histograms = append(of.Histograms, promql.HPoint{T: p.time(), H: h})
		}
		matrix = append(matrix, of)
	}
	return matrix, nil
}
