package metrics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/yaml"
)

// cluster is an API with one node and two pods, of which one runs. Its node says that its CPU and
// that of the pod were busy for half of the time between two questions.
func cluster(t *testing.T) (*Server, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	began := time.Now().Add(-time.Hour)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(text string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, text)
		}
		pod := func(name string) string {
			return `{"metadata":{"name":"` + name + `","namespace":"shop","labels":{"app":"web"}}}`
		}
		switch r.URL.Path {
		case "/api/v1/nodes":
			answer(`{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"here","labels":{"disk":"fast"}}}]}`)
		case "/api/v1/nodes/here/proxy/metrics/resource":
			asked.Add(1)
			now := time.Now()
			busy := now.Sub(began).Seconds() / 2
			fmt.Fprintf(w, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %v %d\n", busy, now.UnixMilli())
			fmt.Fprintf(w, "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1e+09 %d\n", now.UnixMilli())
			of := `{container="web",namespace="shop",pod="web-1"}`
			fmt.Fprintf(w, "# TYPE container_cpu_usage_seconds_total counter\ncontainer_cpu_usage_seconds_total%s %v %d\n", of, busy, now.UnixMilli())
			fmt.Fprintf(w, "# TYPE container_memory_working_set_bytes gauge\ncontainer_memory_working_set_bytes%s 5e+06 %d\n", of, now.UnixMilli())
			fmt.Fprintf(w, "# TYPE container_start_time_seconds gauge\ncontainer_start_time_seconds%s %d\n", of, began.Unix())
		case "/api/v1/namespaces/shop/pods":
			list := pod("web-1") + "," + pod("web-2")
			if r.URL.Query().Get("labelSelector") != "" && r.URL.Query().Get("labelSelector") != "app=web" {
				list = ""
			}
			answer(`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{},"items":[` + list + `]}`)
		case "/api/v1/namespaces/shop/services/web":
			answer(`{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"shop"}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(api.Close)
	s, err := New(Config{Client: &rest.Config{Host: api.URL}})
	if err != nil {
		t.Fatal(err)
	}
	return s, &asked
}

func ask(t *testing.T, s *Server, path string, into any) int {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", "application/json")
	s.ServeHTTP(w, r)
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s answers %d %s", path, w.Code, w.Body)
		}
	}
	return w.Code
}

func TestUseIsThatBetweenTwoReadings(t *testing.T) {
	s, asked := cluster(t)
	var pods v1beta1.PodMetricsList
	ask(t, s, "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods?labelSelector=app%3Dweb", &pods)
	if len(pods.Items) != 1 || pods.Items[0].Name != "web-1" || len(pods.Items[0].Containers) != 1 || pods.Items[0].Labels["app"] != "web" {
		t.Fatalf("got %+v, want the pod that runs", pods.Items)
	}
	use := pods.Items[0].Containers[0].Usage
	if cores := use.Cpu().AsApproximateFloat64(); cores < 0.45 || cores > 0.55 {
		t.Errorf("the pod uses %v cores, want half of one", cores)
	}
	if use.Memory().Value() != 5e6 {
		t.Errorf("the pod uses %v of memory, want 5 MB", use.Memory())
	}
	if asked.Load() != 2 {
		t.Errorf("the node was read %d times for the first question, want twice", asked.Load())
	}
	var nodes v1beta1.NodeMetricsList
	ask(t, s, "/apis/metrics.k8s.io/v1beta1/nodes", &nodes)
	if len(nodes.Items) != 1 || nodes.Items[0].Usage.Memory().Value() != 1e9 || nodes.Items[0].Labels["disk"] != "fast" {
		t.Errorf("nodes are %+v", nodes.Items)
	}
	if asked.Load() != 2 {
		t.Errorf("the node was read again within the resolution")
	}
	ask(t, s, "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods?labelSelector=app%3Dother", &pods)
	if len(pods.Items) != 0 {
		t.Errorf("a selector is not kept to: %+v", pods.Items)
	}
}

func TestWhatIsServedIsDescribed(t *testing.T) {
	s, _ := cluster(t)
	for path, want := range map[string]string{
		"/apis/metrics.k8s.io":                             `"preferredVersion":{"groupVersion":"metrics.k8s.io/v1beta1"`,
		"/apis/metrics.k8s.io/v1beta1":                     `"kind":"PodMetrics"`,
		"/apis/custom.metrics.k8s.io":                      `"custom.metrics.k8s.io/v1beta2"`,
		"/apis/custom.metrics.k8s.io/v1beta2":              `"services/requests_per_second"`,
		"/openapi/v3":                                      `"apis/metrics.k8s.io/v1beta1"`,
		"/openapi/v3/apis/metrics.k8s.io/v1beta1":          `PodMetrics`,
		"/openapi/v3/apis/custom.metrics.k8s.io/v1beta2":   `MetricValueList`,
		"/apis/external.metrics.k8s.io/v1beta1":            `"requests_in_flight"`,
		"/openapi/v3/apis/external.metrics.k8s.io/v1beta1": `ExternalMetricValueList`,
		"/openapi/v2":                                      `ExternalMetricValueList`,
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s answers %d without %s: %.300s", path, w.Code, want, w.Body)
		}
	}
	if code := ask(t, s, "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/services/web/requests_per_second", nil); code != http.StatusServiceUnavailable {
		t.Errorf("without a gateway requests are answered %d, want 503", code)
	}
	if code := ask(t, s, "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/services/web/smiles", nil); code != http.StatusNotFound {
		t.Errorf("an unknown metric is answered %d, want 404", code)
	}
}

func TestRates(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name          string
		before, after point
		known         bool
		cores         float64
		ok            bool
	}{
		{"between two readings", point{at: at, cpu: 10}, point{at: at.Add(10 * time.Second), cpu: 15}, true, 0.5, true},
		{"since the start of what is new", point{}, point{at: at.Add(4 * time.Second), cpu: 1, started: at}, false, 0.25, true},
		{"since a restart", point{at: at, cpu: 10}, point{at: at.Add(10 * time.Second), cpu: 1, started: at.Add(8 * time.Second)}, true, 0.5, true},
		{"too new", point{}, point{at: at.Add(100 * time.Millisecond), cpu: 1, started: at}, false, 0, false},
		{"the same reading", point{at: at, cpu: 1}, point{at: at, cpu: 1}, true, 0, false},
		{"without a start", point{}, point{at: at, cpu: 1}, false, 0, false},
	} {
		if u, ok := between(c.before, c.after, c.known); ok != c.ok || u.cores != c.cores {
			t.Errorf("%s: %v cores, known %v; want %v, %v", c.name, u.cores, ok, c.cores, c.ok)
		}
	}
}

func TestExamplesOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	var a autoscalingv2.HorizontalPodAutoscaler
	if err := yaml.UnmarshalStrict(example[1], &a); err != nil || len(a.Spec.Metrics) != 2 || a.Spec.Metrics[1].Object.Metric.Name != requestsPerSecond {
		t.Errorf("the example is not an autoscaler on two metrics: %v\n%s", err, example[1])
	}
}
