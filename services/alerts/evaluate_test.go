package alerts

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/services/alerts/ruleset"
)

func newService(t *testing.T) *Service {
	t.Helper()
	s, err := New(Config{
		Client: &rest.Config{Host: "http://127.0.0.1:1"}, Dir: t.TempDir(),
		ExternalURL: &url.URL{Scheme: "https", Host: "gantry.example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openSamples(t *testing.T) (*tsdb.DB, *promql.Engine) {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
}

func store(t *testing.T, db *tsdb.DB, value float64, pairs ...string) {
	t.Helper()
	a := db.Appender(context.Background())
	_, err := a.Append(0, labels.FromStrings(pairs...), time.Now().UnixMilli(), value)
	if err = errors.Join(err, a.Commit()); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, name, text string) ruleset.File {
	t.Helper()
	f, err := ruleset.Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const spying = `
groups:
- name: spy
  rules:
  - {record: stolen, expr: sum(secret)}
  - alert: Spy
    expr: vector(1)
    annotations: {summary: '{{ query "sum(secret)" | first | value }}'}
`

// Time is synctest's: an evaluation interval takes none.
func TestRulesOfANamespaceSeeItsSamplesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, engine := openSamples(t)
		store(t, db, 1, "__name__", "secret", "namespace", "shop")
		store(t, db, 42, "__name__", "secret", "namespace", "bank")
		own, err := parse(t, "shop/spy", spying).Confined("shop")
		if err != nil {
			t.Fatal(err)
		}
		s := newService(t)
		s.rules.replace([]ruleset.File{own, parse(t, "monitoring/all", spying).OfCluster()})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Evaluate(ctx, db, engine) }()
		time.Sleep(3 * DefaultInterval)
		synctest.Wait()

		values := map[string]float64{}
		q, err := engine.NewInstantQuery(t.Context(), db, nil, "stolen", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		stolen, err := q.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range stolen {
			values[v.Metric.Get("namespace")] = v.F
		}
		if len(values) != 2 || values["shop"] != 1 || values[""] != 43 {
			t.Errorf("recorded, by namespace: %v", values)
		}
		for _, g := range s.Groups() {
			for _, r := range g.AlertingRules() {
				for _, a := range r.ActiveAlerts() {
					want := map[string]string{"namespace/shop/spy": "1", "cluster/monitoring/all": "43"}[g.File()]
					if got := a.Annotations.Get("summary"); want != "" && got != want {
						t.Errorf("%s read %s in a template, want %s", g.File(), got, want)
					}
				}
			}
		}
		if s.heartbeat.lastBeat().IsZero() {
			t.Error("the Watchdog was not heard")
		}
		if testutil.ToFloat64(s.failures) == 0 { // nobody runs who takes alerts over
			t.Error("alerts that are lost are not counted")
		}
		stop()
		if err := <-done; err != nil || s.Groups() != nil {
			t.Errorf("ended with %v and %d groups", err, len(s.Groups()))
		}
	})
}

func TestLinksShowTheObjectAndItsWorkload(t *testing.T) {
	db, engine := openSamples(t)
	store(t, db, 1, "__name__", "kube_pod_owner", "namespace", "shop", "pod", "cart-7d9-x", "owner_kind", "ReplicaSet", "owner_name", "cart-7d9")
	store(t, db, 1, "__name__", "kube_replicaset_owner", "namespace", "shop", "replicaset", "cart-7d9", "owner_kind", "Deployment", "owner_name", "cart")
	store(t, db, 5, "__name__", "restarts", "namespace", "shop", "pod", "cart-7d9-x", "container", "main")
	l := &links{query: rules.EngineQueryFunc(engine, db), known: map[model.Fingerprint]handed{}}
	found := l.find(t.Context(), `restarts > 2 and on (pod) up == 0`, model.LabelSet{"namespace": "shop", "pod": "cart-7d9-x", "container": "main"})
	for name, want := range map[string]string{
		"object": "pod shop/cart-7d9-x", "logs": "/console/logs?namespace=shop&pod=cart-7d9-x", "change": "/console/workloads/shop/deployment/cart",
		"graph": graphPath(`restarts{container="main",namespace="shop",pod="cart-7d9-x"}`),
	} {
		if got := string(found[model.LabelName(name)]); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	// A label that the rule has made up selects nothing: then the whole expression is shown.
	found = l.find(t.Context(), `restarts > 2`, model.LabelSet{"namespace": "shop", "deployment": "cart"})
	if got := string(found["graph"]); !strings.Contains(got, "restarts+%3E+2") || string(found["object"]) != "deployment shop/cart" {
		t.Errorf("found %v", found)
	}
}
