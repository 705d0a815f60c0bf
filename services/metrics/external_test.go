package metrics

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/gantryhq/gantry/internal/demand"
)

// gatewayOf is a gateway that sees ten requests more each time it tells of them.
func gatewayOf(t *testing.T, services ...demand.Service) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for seen := uint64(0); r.Context().Err() == nil; seen += 10 {
			for i := range services {
				services[i].Requests = seen
			}
			if json.NewEncoder(w).Encode(demand.Report{Services: services}) != nil {
				return
			}
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}))
	t.Cleanup(server.CloseClientConnections)
	return server.URL
}

func TestExternalMetricsHaveAValueForEachServiceThatIsChosen(t *testing.T) {
	s, err := New(Config{Client: &rest.Config{Host: "http://127.0.0.1:1"}, Gateways: gatewayOf(t,
		demand.Service{Namespace: "shop", Service: "web", Port: 80, InFlight: 3, Waiting: 1},
		demand.Service{Namespace: "shop", Service: "api", Port: 80},
		demand.Service{Namespace: "other", Service: "web", Port: 80, InFlight: 50},
	)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	const in = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/"
	get := func(path string) (list v1beta1.ExternalMetricValueList) {
		if code := ask(t, s, in+path, &list); code != http.StatusOK {
			t.Fatalf("%s is answered %d", path, code)
		}
		return list
	}
	for deadline := time.Now().Add(20 * time.Second); len(get("requests_in_flight").Items) < 2; <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the demand does not arrive")
		}
	}
	all := get("requests_in_flight").Items
	if all[0].MetricLabels["service"] != "api" || all[1].MetricLabels["service"] != "web" || all[1].Value.Value() != 4 {
		t.Errorf("requests in flight are %+v, want 0 of api and 4 of web", all)
	}
	one := get("requests_per_second?labelSelector=service%3Dweb").Items
	if len(one) != 1 || one[0].Value.AsApproximateFloat64() < 10 || one[0].Value.AsApproximateFloat64() > 200 {
		t.Errorf("requests a second are %+v, want about 100 of web", one)
	}
	if none := get("requests_per_second?labelSelector=service%3Dnone").Items; len(none) != 0 {
		t.Errorf("of no Service there is %+v", none)
	}
	if code := ask(t, s, in+"smiles", nil); code != http.StatusNotFound {
		t.Errorf("an unknown metric is answered %d, want 404", code)
	}
}
