package prometheus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// web is a workload that offers a page to the gateway, and metrics.
const web = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: REGISTRY/base/busybox
        command: [sh, -c, 'mkdir /www; echo hello > /www/index.html; echo "answers_total 42" > /www/metrics; exec httpd -f -p 8080 -h /www']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  rules: [{host: shop.localhost, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
`

// expressions are what dashboards and people ask. Of those that are said to be the same at any time also ranges are compared.
var expressions = []string{
	`up`, `sum by (job) (up)`, `avg without (instance) (up)`, `count(up) by (job) > 0`, `up == bool 1`, `up offset 5s`, `group(up)`,
	`rate(container_cpu_usage_seconds_total[20s])`, `irate(container_cpu_usage_seconds_total[20s])`,
	`sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{namespace="shop"}[20s]))`,
	`increase(gantry_gateway_requests_total[30s])`, `delta(container_memory_working_set_bytes[20s])`,
	`histogram_quantile(0.9, sum by (le) (rate(apiserver_request_duration_seconds_bucket[20s])))`,
	`histogram_quantile(0.99, sum by (le, verb) (rate(apiserver_request_duration_seconds_bucket[20s])))`,
	`topk(3, container_memory_working_set_bytes)`, `bottomk(2, container_memory_working_set_bytes)`,
	`sort(scrape_duration_seconds)`, `sort_desc(scrape_duration_seconds)`,
	`kube_pod_info * on (namespace, pod) group_left () kube_pod_status_ready{condition="true"}`,
	`kube_pod_container_resource_limits or kube_pod_info`, `up and on (job) scrape_samples_scraped > 10`, `up unless on (job) kube_pod_info`,
	`absent(nothing)`, `absent_over_time(nothing[20s])`, `count_values("v", up)`, `quantile(0.5, scrape_samples_scraped)`, `stddev(scrape_samples_scraped)`, `stdvar(scrape_samples_scraped)`,
	`max_over_time(scrape_samples_scraped[20s])`, `min_over_time(scrape_samples_scraped[20s])`, `avg_over_time(scrape_samples_scraped[20s])`,
	`stddev_over_time(scrape_samples_scraped[20s])`, `quantile_over_time(0.9, scrape_samples_scraped[20s])`, `count_over_time(up[20s])`, `last_over_time(up[20s])`, `present_over_time(up[20s])`,
	`changes(up[20s])`, `resets(container_cpu_usage_seconds_total[20s])`, `deriv(container_memory_working_set_bytes[20s])`,
	`predict_linear(node_filesystem_avail_bytes[20s], 3600)`, `sum_over_time(up[20s:3s])`, `max_over_time(rate(container_cpu_usage_seconds_total[10s])[15s:2s])`,
	`label_replace(up, "x", "$1", "job", "(.).*")`, `label_join(up, "x", "-", "job", "instance")`,
	`node_memory_MemTotal_bytes / 1024 ^ 2`, `clamp(scrape_samples_scraped, 10, 20)`, `round(scrape_duration_seconds, 0.01)`, `ln(scrape_samples_scraped)`,
	`scalar(sum(up))`, `vector(1)`, `time()`, `timestamp(up)`, `day_of_week()`, `-up`, `1 + 2 * 3`,
	`{__name__=~"kube_pod.*", namespace="shop"}`, `{namespace="shop", __name__!~"kube.*"}`, `nothing`,
}

// question is one request, the same to both.
type question struct {
	path       string
	parameters url.Values
	post       bool
}

func (q question) String() string {
	method := "GET"
	if q.post {
		method = "POST"
	}
	return method + " " + q.path + "?" + q.parameters.Encode()
}

// questions are those whose answers must be equal, about the time until at.
func questions(at time.Time) (list []question) {
	second := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	from, to := second(at.Add(-30*time.Second)), second(at)
	add := func(path string, parameters ...string) {
		q := question{path: "/api/v1/" + path, parameters: url.Values{}}
		for i := 0; i < len(parameters); i += 2 {
			q.parameters.Add(parameters[i], parameters[i+1])
		}
		list = append(list, q)
		if !strings.HasPrefix(path, "label/") { // Grafana sends forms, but for these
			q.post = true
			list = append(list, q)
		}
	}
	for _, e := range expressions {
		add("query", "query", e, "time", to)
		add("query_range", "query", e, "start", from, "end", to, "step", "7")
		add("format_query", "query", e)
	}
	add("query", "query", `up[20s]`, "time", to)
	add("query", "query", `"text"`, "time", to)
	add("query", "query", `up`, "time", at.UTC().Format(time.RFC3339Nano), "timeout", "10s")
	add("query_range", "query", "up", "start", from, "end", to, "step", "1m30s")
	for _, match := range []string{`{namespace="shop"}`, `kube_pod_info{namespace="shop"}`, `{__name__=~"container_.*",namespace="shop"}`} {
		add("labels", "match[]", match, "start", from, "end", to)
		add("series", "match[]", match, "start", from, "end", to)
		for _, name := range []string{"__name__", "pod", "container", "nothing"} {
			add("label/"+name+"/values", "match[]", match, "start", from, "end", to)
		}
	}
	add("series", "match[]", `kube_pod_info{namespace="shop"}`, "match[]", `container_processes{namespace="shop"}`, "start", from, "end", to)
	add("query_exemplars", "query", "up", "start", from, "end", to)
	// Refusals.
	for _, e := range []string{`sum(`, `rate(up)`, `nothing(up)`, `up{`, `{}`, `up[5m`, ``} {
		add("query", "query", e, "time", to)
		add("query_range", "query", e, "start", from, "end", to, "step", "7")
		add("format_query", "query", e)
	}
	add("query", "query", "up", "time", "never")
	list = append(list, question{"/api/v1/query", url.Values{"query": {"up"}, "timeout": {"soon"}}, true}) // in a URL the API server reads it as well
	add("query", "query", "up * on () group_left () {namespace=\"shop\"}", "time", to)
	add("query_range", "query", "up[5m]", "start", from, "end", to, "step", "7")
	add("query_range", "query", "up", "start", to, "end", from, "step", "7")
	add("query_range", "query", "up", "start", from, "end", to, "step", "0")
	add("query_range", "query", "up", "start", "0", "end", to, "step", "1")
	add("query_range", "query", "up", "start", from, "end", to)
	add("series", "start", from, "end", to)
	add("series", "match[]", "{", "start", from)
	add("series", "match[]", "{a=~\".*\"}", "start", from)
	add("labels", "match[]", "up[", "start", from)
	add("labels", "match[]", "up", "start", "never")
	add("query_exemplars", "query", "sum(", "start", from, "end", to)
	return list
}

// comparable is what of an answer must be equal. Annotations are left out, which Debian's release does not have yet,
// and the words of errors, whose kind and status are compared. Numbers are rounded to 12 digits: releases add floats up in different ways.
func comparable(r reply, ordered bool) string {
	delete(r.body, "warnings")
	delete(r.body, "infos")
	delete(r.body, "error")
	if data, ok := r.body["data"].(map[string]any); ok && !ordered {
		if list, ok := data["result"].([]any); ok {
			sortAny(list)
		}
	}
	if list, ok := r.body["data"].([]any); ok {
		sortAny(list)
	}
	text, _ := json.Marshal(rounded(r.body))
	return fmt.Sprint(r.status, " ", string(text))
}

func rounded(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			if name != "metric" {
				v[name] = rounded(v[name])
			}
		}
	case []any:
		for i := range v {
			v[i] = rounded(v[i])
		}
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return strconv.FormatFloat(f, 'g', 12, 64)
		}
	}
	return v
}

func sortAny(list []any) {
	slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

// shot runs a Gantry with a workload under requests, ends it, and starts it again: what it has measured until then is
// also in a copy of its database.
func shot(t *testing.T) (base, dir string, at time.Time) {
	in := instance.Start(t, instance.Options{Args: []string{"--metrics-interval", "1s"}})
	in.BaseImages(t)
	base = proxied(t, in)
	apply(t, in, strings.ReplaceAll(web, "REGISTRY", in.Registry))
	await(t, "the gateway passes requests on", func() error { return visit(in) })
	awaitSeries(t, base, `sum(count_over_time(answers_total{namespace="shop"}[1m])) > 50`)
	for range 200 {
		check(t, visit(in))
	}
	awaitSeries(t, base, `sum(rate(gantry_gateway_requests_total{code="200"}[1m])) > 0`)
	awaitSeries(t, base, `container_cpu_usage_seconds_total{namespace="shop",container="web"} > 0`)
	in.Stop(t, syscall.SIGTERM)
	at = time.Now()
	dir = filepath.Join(t.TempDir(), "samples")
	check(t, os.CopyFS(dir, os.DirFS(filepath.Join(in.DataDir, "monitor"))))
	in.Serve(t)
	awaitSeries(t, base, "vector(1)")
	return base, dir, at.Add(-2 * time.Second).Truncate(time.Second).Add(137 * time.Millisecond) // no round time, at which releases differ in what still belongs to a range
}

func TestAnswersAreThoseOfDebiansPrometheus(t *testing.T) {
	testenv.NeedContainers(t)
	program(t, "prometheus")
	promtool := program(t, "promtool")
	base, dir, at := shot(t)
	theirs := startPeer(t, dir, "global: {}\n")
	list, filled := questions(at), 0
	for _, q := range list {
		a, err := ask(base, q.path, q.parameters, q.post)
		check(t, err)
		b, err := ask(theirs.url, q.path, q.parameters, q.post)
		check(t, err)
		ordered := strings.HasPrefix(q.parameters.Get("query"), "sort") && strings.HasSuffix(q.path, "/query")
		got, want := comparable(a, ordered), comparable(b, ordered)
		if got != want {
			t.Errorf("%s\n      Gantry %.600s\n  Prometheus %.600s", q, got, want)
		}
		if !strings.Contains(want, `"result":[]`) && b.status == 200 {
			filled++
		}
	}
	t.Logf("%d questions, of which %d have answers with something in them", len(list), filled)
	if filled < len(list)/2 {
		t.Errorf("only %d of %d questions have answers with something in them", filled, len(list))
	}

	t.Run("promtool", func(t *testing.T) {
		second := strconv.FormatInt(at.Unix(), 10)
		earlier := strconv.FormatInt(at.Unix()-30, 10)
		for _, args := range [][]string{
			{"instant", "--time", second, "BASE", `sort(scrape_duration_seconds)`},
			{"range", "--start", earlier, "--end", second, "--step", "7s", "BASE", `sum(up)`},
			{"series", "--match", `kube_pod_info{namespace="shop"}`, "--start", earlier, "--end", second, "BASE"},
			{"labels", "BASE", "phase"},
			{"labels", "BASE", "nothing"},
			{"instant", "BASE", `sum(`},
		} {
			ours, ourErr := run(promtool, args, base)
			other, theirErr := run(promtool, args, theirs.url)
			if ours != other || (ourErr == nil) != (theirErr == nil) {
				t.Errorf("promtool query %q\n      Gantry %s %v\n  Prometheus %s %v", args, ours, ourErr, other, theirErr)
			}
			if len(args) > 3 && theirErr == nil && other == "" {
				t.Errorf("promtool query %q says nothing", args)
			}
		}
		// Debian's promtool reads the database itself.
		out, err := exec.Command(promtool, "tsdb", "dump", "--match", `answers_total`, dir).Output()
		if err != nil || strings.Count(string(out), "answers_total") < 50 {
			t.Errorf("promtool tsdb dump: %v, %d samples", err, strings.Count(string(out), "answers_total"))
		}
		if out, err := exec.Command(promtool, "tsdb", "list", dir).CombinedOutput(); err != nil {
			t.Errorf("promtool tsdb list: %v\n%s", err, out)
		}
	})
	t.Run("shapes", func(t *testing.T) { shapes(t, base) })
}

func run(promtool string, args []string, base string) (string, error) {
	args = append([]string{"query"}, args...)
	for i := range args {
		if args[i] == "BASE" {
			args[i] = base
		}
	}
	out, err := exec.Command(promtool, args...).Output()
	return string(out), err
}

// shapes compares answers about the server itself: each field that Debian's Prometheus has must be there, with the same
// kind of value.
func shapes(t *testing.T, base string) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yml")
	check(t, os.WriteFile(rules, []byte(`
groups:
- name: g
  interval: 1s
  rules:
  - {record: a:b, expr: sum(up), labels: {x: "y"}}
  - {alert: Always, expr: vector(1), labels: {severity: none}, annotations: {summary: s}}
`), 0o600))
	p := startPeer(t, filepath.Join(dir, "samples"), fmt.Sprintf(
		"global: {scrape_interval: 1s}\nrule_files: [%s]\nscrape_configs: [{job_name: self, static_configs: [{targets: [SELF]}]}]\n", rules))
	for _, of := range []string{p.url, base} {
		awaitSeries(t, of, `go_goroutines`)
		awaitSeries(t, of, `ALERTS{alertstate="firing"}`)
	}
	for _, question := range []string{
		"rules", "rules?type=alert", "rules?type=record", "alerts", "alertmanagers", "targets", "targets?state=active", "scrape_pools",
		"targets/metadata?metric=go_goroutines", "targets/metadata?limit=2", "metadata?metric=go_goroutines", "metadata?metric=nothing",
		"status/config", "status/buildinfo", "status/runtimeinfo", "status/tsdb", "status/tsdb?limit=3", "query?query=up&stats=all", "query?query=up&stats=1",
	} {
		path, parameters, _ := strings.Cut(question, "?")
		form, err := url.ParseQuery(parameters)
		check(t, err)
		a, err := ask(base, "/api/v1/"+path, form, false)
		check(t, err)
		b, err := ask(p.url, "/api/v1/"+path, form, false)
		check(t, err)
		ours, theirs := map[string]string{}, map[string]string{}
		shape(ours, "", a.body)
		shape(theirs, "", b.body)
		for _, field := range slices.Sorted(maps.Keys(theirs)) {
			if ours[field] != theirs[field] && ours[field] != "several" {
				t.Errorf("%s: %s is %q, and %q in Prometheus", question, field, ours[field], theirs[field])
			}
		}
		if a.status != b.status {
			t.Errorf("%s: status %d, and %d in Prometheus", question, a.status, b.status)
		}
	}
	for _, path := range []string{"/-/healthy", "/-/ready", "/federate?match[]=up"} {
		for _, of := range []string{base, p.url} {
			answer, err := http.Get(of + path)
			check(t, err)
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %s", of, path, answer.Status)
			}
		}
	}
}

// byName are objects whose fields are names of somebody's, and not of the API.
var byName = []string{"labels", "discoveredLabels", "annotations", "metric", "target", "droppedTargetCounts"}

// shape notes the kind of each field. Elements of a list are one field.
func shape(kinds map[string]string, at string, v any) {
	kind := "null"
	switch v := v.(type) {
	case map[string]any:
		kind = "object"
		if !slices.Contains(byName, at[strings.LastIndexAny(at, ".]")+1:]) {
			for name, value := range v {
				shape(kinds, at+"."+name, value)
			}
		}
	case []any:
		kind = "list"
		for _, value := range v {
			shape(kinds, at+"[]", value)
		}
	case string:
		kind = "string"
	case float64:
		kind = "number"
	case bool:
		kind = "bool"
	}
	if before, known := kinds[at]; known && before != kind {
		kind = "several"
	}
	kinds[at] = kind
}
