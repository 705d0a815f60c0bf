package anomaly

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// cluster answers as an API server with a monitor and a time line does.
type cluster struct {
	*httptest.Server

	mu     sync.Mutex // guards following
	cpu    float64    // of the one pod
	down   bool
	past   model.Matrix // what was recorded before
	events []change
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{cpu: 0.1}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.down {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		switch {
		case r.URL.Path == timelinePath && r.FormValue("namespace") == "shop":
			_ = json.NewEncoder(w).Encode(changes{Events: c.events})
		case strings.HasSuffix(r.URL.Path, "/query_range"):
			answer(w, "matrix", c.past)
		case strings.HasSuffix(r.URL.Path, "/query"):
			answer(w, "vector", c.vector(r.FormValue("query")))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func answer(w http.ResponseWriter, kind string, result any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": result}})
}

func (c *cluster) vector(query string) model.Vector {
	sample := func(v float64, labels model.Metric) model.Vector {
		return model.Vector{{Metric: labels, Value: model.SampleValue(v), Timestamp: model.Now()}}
	}
	switch {
	case query == ownersOfPods:
		return sample(1, model.Metric{"namespace": "shop", "pod": "cart-1", "owner_kind": "ReplicaSet", "owner_name": "cart-abc"})
	case query == ownersOfReplicaSets:
		return sample(1, model.Metric{"namespace": "shop", "replicaset": "cart-abc", "owner_kind": "Deployment", "owner_name": "cart"})
	case strings.Contains(query, "container_cpu_usage_seconds_total"):
		return sample(c.cpu, model.Metric{"namespace": "shop", "pod": "cart-1"})
	}
	return model.Vector{}
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func start(t *testing.T, c *cluster, dir string) *Service {
	t.Helper()
	s, err := New(Config{Client: &rest.Config{Host: c.URL}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listed(t *testing.T, s *Service, query string) Answer {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path+query, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnAnomalyIsToldWithItsCause(t *testing.T) {
	c, dir := newCluster(t), t.TempDir()
	s := start(t, c, dir)
	at := begin
	minutes := func(n int) {
		for range n {
			s.look(t.Context(), at)
			at = at.Add(step)
		}
	}
	minutes(leastMinutes + 5)
	if a := listed(t, s, ""); a.Known != 1 || len(a.Anomalies) != 0 {
		t.Fatalf("%d signals are known and %d anomalies told, 1 and 0 were expected", a.Known, len(a.Anomalies))
	}
	c.set(func() {
		c.cpu = 1.5
		c.events = []change{
			{Time: at.Add(-10 * time.Minute), Kind: "scale", Namespace: "shop", Workload: "web", Object: "deployment/web"},
			{Time: at.Add(-time.Minute), Kind: "deploy", Namespace: "shop", Workload: "cart", Object: "deployment/cart", Message: "cart:2", By: "kubectl"},
			{Time: at.Add(-time.Hour), Kind: "deploy", Namespace: "shop", Workload: "cart", Object: "deployment/cart", Message: "cart:1"},
		}
	})
	minutes(4)
	found := listed(t, s, "?namespace=shop&workload=cart").Anomalies
	if len(found) != 1 {
		t.Fatalf("%d anomalies are told, 1 was expected", len(found))
	}
	a := found[0]
	if a.Subject != (Subject{"shop", "Deployment", "cart"}) || a.Signal != "cpu" || a.End != nil || a.Value != 1.5 || a.Score < far {
		t.Errorf("the anomaly is %+v", a)
	}
	if len(a.Causes) != 2 || a.Causes[0].Message != "cart:2" || a.Causes[0].By != "kubectl" || a.Causes[1].Object != "deployment/web" {
		t.Errorf("its causes are %+v", a.Causes)
	}
	if len(listed(t, s, "?namespace=other").Anomalies) != 0 {
		t.Error("another namespace is told of it")
	}

	// It is there again after a restart, and ends when the signal is as before.
	c.set(func() {
		c.past = model.Matrix{{Metric: model.Metric{"namespace": "shop", "kind": "Deployment", "workload": "cart", "signal": "cpu"}}}
		for i := range lastHour {
			c.past[0].Values = append(c.past[0].Values, model.SamplePair{Timestamp: model.TimeFromUnix(at.Add(time.Duration(i-lastHour) * step).Unix()), Value: 0.1})
		}
	})
	s = start(t, c, dir)
	if !s.remember(t.Context(), at) {
		t.Fatal("nothing was remembered")
	}
	minutes(1)
	if a := listed(t, s, ""); len(a.Anomalies) != 1 || a.Anomalies[0].End != nil || a.Known != 1 {
		t.Fatalf("after a restart the answer is %+v", a)
	}
	c.set(func() { c.cpu = 0.1 })
	minutes(window + 1)
	if a := listed(t, s, ""); len(a.Anomalies) != 1 || a.Anomalies[0].End == nil {
		t.Errorf("the anomaly has not ended: %+v", a.Anomalies)
	}
}

func TestItsSeriesAreOffered(t *testing.T) {
	c := newCluster(t)
	s := start(t, c, t.TempDir())
	s.look(t.Context(), time.Now())
	w := httptest.NewRecorder()
	s.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if want := `gantry_signal{kind="Deployment",namespace="shop",signal="cpu",workload="cart"} 0.1`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("%s is not among\n%s", want, w.Body)
	}
}

func TestWithoutTheMonitorNothingIsLearntAndNothingTold(t *testing.T) {
	c := newCluster(t)
	s := start(t, c, t.TempDir())
	c.set(func() { c.down = true })
	if s.remember(t.Context(), begin) {
		t.Error("it believes to remember what nobody told")
	}
	for i := range 30 {
		s.look(t.Context(), begin.Add(time.Duration(i)*step))
	}
	if a := listed(t, s, ""); a.Watched != 0 || len(a.Anomalies) != 0 {
		t.Errorf("the answer is %+v", a)
	}
}

func TestBadQuestionsAreRefused(t *testing.T) {
	s := start(t, newCluster(t), t.TempDir())
	for path, want := range map[string]int{Path + "?start=yesterday": 400, Prefix + "other": 404} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s is answered with %d, want %d", path, w.Code, want)
		}
	}
}

func TestTooManySignalsAreIgnored(t *testing.T) {
	s := start(t, newCluster(t), t.TempDir())
	for i := range maxSignals + 10 {
		s.find(key{Subject{"n", "Deployment", fmt.Sprint(i)}, "cpu"}, signalNamed("cpu"))
	}
	if len(s.watched) != maxSignals {
		t.Errorf("%d signals are watched, %d are the most", len(s.watched), maxSignals)
	}
}

func TestPodsBelongToWhatRepeatsThem(t *testing.T) {
	owned := func(what, name, kind, by string) *model.Sample {
		return &model.Sample{Metric: model.Metric{"namespace": "n", model.LabelName(what): model.LabelValue(name), "owner_kind": model.LabelValue(kind), "owner_name": model.LabelValue(by)}}
	}
	got := workloads(
		model.Vector{owned("pod", "a", "ReplicaSet", "web-1"), owned("pod", "b", "Job", "nightly-1"), owned("pod", "c", "Job", "once"), owned("pod", "d", "StatefulSet", "db"), owned("pod", "e", "ReplicaSet", "alone")},
		model.Vector{owned("replicaset", "web-1", "Deployment", "web")},
		model.Vector{owned("job_name", "nightly-1", "CronJob", "nightly")})
	want := map[string]Subject{"n/a": {"n", "Deployment", "web"}, "n/b": {"n", "CronJob", "nightly"}, "n/d": {"n", "StatefulSet", "db"}, "n/e": {"n", "ReplicaSet", "alone"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pods belong to %v, want %v", got, want)
	}
}
