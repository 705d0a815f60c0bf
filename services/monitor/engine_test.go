package monitor

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"

	"github.com/gantryhq/gantry/services/monitor/api"
)

// Queries that would eat the machine are refused with the reason, and what people ask is answered.
func TestQueriesThatWouldEatTheMachine(t *testing.T) {
	a := api.New(api.Config{Engine: newEngine(testConfig(t.TempDir()), nil), Parser: parser.NewParser(parserOptions),
		Storage: promqltest.LoadedStorage(t, "load 10s\n  up{job=\"a\"} 1 0 1")})
	longer := func(times, copies int) string {
		e := "up"
		for range times {
			e = `label_replace(` + e + `, "a", "` + strings.Repeat("$1", copies) + `", "a", "(.*)")`
		}
		return e
	}
	for query, want := range map[string]string{
		`sum_over_time(up[10000d:1s])`:                                    "evaluated 864000000 times",
		`sum_over_time(up[1000000d:1ms])`:                                 "out of range",
		`sum_over_time(up[100000d:1ms])`:                                  "evaluated 8640000000000 times",
		`max_over_time(sum_over_time(up[30s:1ms])[60d:1h])`:               "evaluated 5184030000 times",
		`max_over_time((up > 0)[90d:])`:                                   "evaluated 777600 times",
		longer(5, 100):                                                    "as long, more than 64 times",
		longer(7, 2):                                                      "as long, more than 64 times",
		`label_join(` + longer(3, 4) + `, "b", "", "a", "a")`:             "as long, more than 64 times",
		strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000): "bytes, more than",
		`max_over_time(rate(up[5m])[7d:1m])`:                              "",
		`max_over_time(up[30s:10s])`:                                      "",
		longer(3, 2):                                                      "",
		strings.Repeat("(", 10_000) + "1" + strings.Repeat(")", 10_000):   "",
		`sum(`: "unclosed left parenthesis",
	} {
		began := time.Now()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/api/v1/query", strings.NewReader(url.Values{"query": {query}, "time": {"20"}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		a.ServeHTTP(w, r)
		text := w.Body.String()
		if want == "" && w.Code != 200 || want != "" && (w.Code != 400 || !strings.Contains(text, want)) {
			t.Errorf("%.80s: %d %.300s, want %q", query, w.Code, text, want)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%.80s took %s", query, took)
		}
	}
	r := httptest.NewRequest("GET", "/api/v1/query_range?query="+url.QueryEscape("max_over_time(up[1m:1s])")+"&start=0&end=1000000&step=1000", nil)
	w := httptest.NewRecorder()
	if a.ServeHTTP(w, r); w.Code != 400 || !strings.Contains(w.Body.String(), "evaluated 1000060 times") {
		t.Errorf("over a range: %d %s", w.Code, w.Body)
	}
}
