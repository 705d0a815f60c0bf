package api

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// Answers as Prometheus 3 writes them, byte for byte where it matters to clients.
func TestAnswersAreThoseOfPrometheus(t *testing.T) {
	p := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50, Timeout: time.Minute, Parser: p})
	t.Cleanup(func() { _ = engine.Close() })
	a := New(Config{Engine: engine, Parser: p, Storage: promqltest.LoadedStorage(t, `
load 10s
  up{job="a",instance="<x>"} 1 0 1
  up{job="b"} NaN 2 3
  many 0+1x200`)})
	for request, want := range map[string]string{
		"/api/v1/query?query=up{job=\"a\"}&time=20":                      `200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"<x>","job":"a"},"value":[20,"1"]}]}}`,
		"/api/v1/query_range?query=up{job=\"b\"}&start=0&end=20&step=10": `200 {"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"b"},"values":[[0,"NaN"],[10,"2"],[20,"3"]]}]}}`,
		"/api/v1/query?query=1.5&time=1.234":                             `200 {"status":"success","data":{"resultType":"scalar","result":[1.234,"1.5"]}}`,
		"/api/v1/query?query=\"text\"&time=1":                            `200 {"status":"success","data":{"resultType":"string","result":[1,"text"]}}`,
		"/api/v1/query?query=none":                                       `200 {"status":"success","data":{"resultType":"vector","result":[]}}`,
		"/api/v1/query?query=up&time=20&limit=1":                         `"warnings":["results truncated due to limit"]`,
		"/api/v1/query?query=sum(":                                       `400 {"error":"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"`,
		"/api/v1/query?query=up&time=never":                              `400 {"error":"invalid parameter \"time\": cannot parse \"never\" to a valid timestamp","errorType":"bad_data","status":"error"}`,
		"/api/v1/query_range?query=up&start=0&end=99999&step=1":          `exceeded maximum resolution of 11,000 points per timeseries`,
		"/api/v1/query_range?query=up&start=9&end=1&step=1":              `end timestamp must not be before start time`,
		"/api/v1/query_range?query=up&start=0&end=1&step=0":              `zero or negative query resolution step widths are not accepted`,
		"/api/v1/query?query=sum_over_time(many[2000s])&time=2000":       `422 {"error":"query processing would load too many samples into memory in query execution","errorType":"execution","status":"error"}`,
		"/api/v1/labels?match[]=up":                                      `200 {"status":"success","data":["__name__","instance","job"]}`,
		"/api/v1/label/job/values":                                       `200 {"status":"success","data":["a","b"]}`,
		"/api/v1/label/job/values?limit=1":                               `200 {"status":"success","data":["a"],"warnings":["results truncated due to limit"]}`,
		"/api/v1/series?match[]=up{job=\"b\"}":                           `200 {"status":"success","data":[{"__name__":"up","job":"b"}]}`,
		"/api/v1/series":                                                 `400 {"error":"no match[] parameter provided","errorType":"bad_data","status":"error"}`,
		"/api/v1/series?match[]={job=~\".*\"}":                           `must contain at least one non-empty matcher`,
		"/api/v1/format_query?query=sum(up)by(job)":                      `200 {"status":"success","data":"sum by (job) (up)"}`,
		"/api/v1/rules":                                                  `200 {"status":"success","data":{"groups":[]}}`,
		"/api/v1/alerts":                                                 `200 {"status":"success","data":{"alerts":[]}}`,
		"/api/v1/nothing":                                                `404 {"error":"there is no GET /api/v1/nothing in this API"`,
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(request, "?")
		r.URL.RawQuery = strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D", "~", "%7E").Replace(r.URL.RawQuery)
		a.ServeHTTP(w, r)
		got := strings.TrimSpace(w.Result().Status[:4] + w.Body.String())
		if !strings.Contains(strings.ReplaceAll(got, `\u003c`, "<"), want) && !strings.Contains(strings.ReplaceAll(got, `\u003cx\u003e`, "<x>"), want) {
			t.Errorf("%s\n got %s\nwant %s", request, got, want)
		}
	}
}
