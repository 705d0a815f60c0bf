package logql

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

func TestLinesThatPass(t *testing.T) {
	stream := labels.FromStrings("namespace", "shop", "app", "web", "stream", "stdout")
	for _, c := range []struct {
		query, line string
		pass        bool
	}{
		{`{app="web"}`, "anything", true},
		{`{app="web"} |= "err"`, "an error", true},
		{`{app="web"} |= "err"`, "an ERROR", false},
		{`{app="web"} |= ""`, "x", true},
		{`{app="web"} != "err" |~ "a.*b"`, "a to b", true},
		{`{app="web"} != "err"`, "err", false},
		{"{app=\"web\"} |~ `(?i)err\\d+`", "ERR17", true},
		{`{app="web"} !~ "^GET"`, "GET /", false},
		{`{app="web"} |= "one" or "two"`, "two", true},
		{`{app="web"} | json | status >= 500`, `{"status": 503}`, true},
		{`{app="web"} | json | status >= 500`, `{"status": "200"}`, false},
		{`{app="web"} | json | status >= 500`, `no json`, false},
		{`{app="web"} | json | __error__ != ""`, `no json`, true},
		{`{app="web"} | json | req_user_name="ann"`, `{"req":{"user-name":"ann","n":[1]}}`, true},
		{`{app="web"} | json | app_extracted="b"`, `{"app":"b"}`, true},
		{`{app="web"} | logfmt | took > 150ms`, `level=info took=1.2s`, true},
		{`{app="web"} | logfmt | took > 150ms`, `level=info took=120ms`, false},
		{`{app="web"} | logfmt | msg="it is \"so\"" and level=~"warn|error"`, `level=warn msg="it is \"so\"" x`, true},
		{`{app="web"} | logfmt | size > 1KB or level="error"`, `size=3MB`, true},
		{`{app="web"} | detected_level="error"`, `2026-01-01 ERROR it broke`, true},
		{`{app="web"} | stream="stderr"`, `x`, false},
		{`{app="web"} | json | drop __error__ | __error__=""`, `no json`, true},
		{`{app="web"} | json | drop level, app | level="" | app="" | namespace="shop"`, `{"level":"warn"}`, true},
		{`{app="web"} | json | drop level="info" | level="warn"`, `{"level":"warn"}`, true},
		{`{app="web"} | drop app=~"w.*" | app="web"`, `x`, false},
		{`{app="web"} | keep app, namespace="bank" | namespace="" | app="web"`, `x`, true},
		{`{app="web"} | drop detected_level | detected_level="error"`, `ERROR`, false},
	} {
		q, err := Parse(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		l := &Line{Text: []byte(c.line), Stream: stream}
		if got := both(q.Log.Stages).Pass(l); got != c.pass {
			t.Errorf("%s passes %q: %t, want %t (%v)", c.query, c.line, got, c.pass, l.Extracted)
		}
		for _, text := range q.Log.Required() {
			if c.pass && !strings.Contains(strings.ToLower(c.line), strings.ToLower(string(text))) {
				t.Errorf("%s passes %q without %q, which it is said to require", c.query, c.line, text)
			}
		}
	}
}

func TestWhatAnExpressionRequires(t *testing.T) {
	for expression, want := range map[string]string{
		"timeout|refused": "", "connection (refused)+ by": "connection ", "a.*longer one": "longer one", "(?i)Timeout": "timeout",
		"(?i)disk": "di", "[a-z]+": "", "x?yz": "yz",
	} {
		q, err := Parse(fmt.Sprintf("{a=\"b\"} |~ `%s`", expression))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, text := range q.Log.Required() {
			got = strings.ToLower(string(text))
		}
		if got != want {
			t.Errorf("%s requires %q, want %q", expression, got, want)
		}
	}
}

func TestNumbersAreAskedFor(t *testing.T) {
	for text, want := range map[string]string{
		`rate({a="b"}[5m])`: "rate 5m0s []",
		`sum by (app, level) (count_over_time({a="b"} |= "x" | json [1m]))`: "count_over_time 1m0s [{sum 0 [app level] false}]",
		`topk(5, sum(bytes_rate({a="b"}[1h])) without (pod))`:               "bytes_rate 1h0m0s [{sum 0 [pod] true} {topk 5 [] false}]",
		`vector(1)+vector(1)`: "vector 0s []",
		`sum by (level, detected_level) (count_over_time({a="b"} |= "x" | drop __error__[1m]))`: "count_over_time 1m0s [{sum 0 [level detected_level] false}]",
		`max(sum by (x) (count_over_time({a="b"} [1d] | logfmt | y="z")))`:                      "count_over_time 24h0m0s [{sum 0 [x] false} {max 0 [] false}]",
	} {
		q, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := fmt.Sprint(q.Metric.Function, " ", q.Metric.Range, " ", q.Metric.Aggregations); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                                 "stream selector",
		`{a="b"`:                           "no end",
		`{a="b"} |= "x`:                    "no end",
		`{a="b"} |= x`:                     "a text in quotes",
		`{a="b"} |~ "("`:                   "missing closing",
		`{a="b"} | line_format "{{.x}}"`:   "line_format is not known here",
		`{a="b"} |> "<_> x"`:               "pattern filters",
		`{a="b"} | drop`:                   "name of a label",
		`{a="b"} | keep a=b`:               "text in quotes",
		`{a="b"} x`:                        "expected the end",
		`{a="b"} | level`:                  "expected a comparison",
		`quantile_over_time(0.9, {a="b"})`: "not known here",
		`count_over_time({a="b"})`:         `expected "["`,
		`count_over_time({a="b"}[x])`:      "length of time",
		`topk({a="b"}[1m])`:                "wants a number",
		`{a="b"} |~ "` + strings.Repeat("a", 5000) + `"`: "at most",
		strings.Repeat("(", 50) + `{a="b"}`:              "nested deeper",
		"{a=\"b\"} \x00":                                 "not expected",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q is refused with %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{a="b"} |= "x" | json | y>=5ms`, `sum by (a) (rate({b=~"c"}[5m]))`, "{a=`b`} !~ \"\\\\d\" # x"} {
		f.Add(seed, `{"a": 1} level=error`)
	}
	f.Fuzz(func(t *testing.T, query, line string) {
		q, err := Parse(query)
		if err != nil || q.Log == nil {
			return
		}
		l := &Line{Text: []byte(line), Stream: labels.FromStrings("a", "b")}
		if !both(q.Log.Stages).Pass(l) {
			return
		}
		for _, text := range q.Log.Required() {
			if !strings.Contains(strings.ToLower(line), strings.ToLower(string(text))) {
				t.Errorf("%q passes %q without %q", query, line, text)
			}
		}
	})
}

func TestLevels(t *testing.T) {
	for line, want := range map[string]string{
		`{"level":"WARN","msg":"an error"}`: "warn", `ts=1 level=error msg=x`: "error", `[INFO] started`: "info",
		`severity: CRITICAL`: "critical", `hello`: "unknown", `levels are fine`: "unknown", ``: "unknown", `panic: runtime error`: "fatal",
	} {
		if got := Level([]byte(line)); got != want {
			t.Errorf("the level of %q is %s, want %s", line, got, want)
		}
	}
}
