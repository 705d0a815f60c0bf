package anomaly

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/api"
	prometheusv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// asker asks the monitor and the time line.
type asker struct {
	prometheus prometheusv1.API
	client     rest.Interface
}

func newAsker(cfg *rest.Config) (*asker, error) {
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	client, err := api.NewClient(api.Config{Address: base.JoinPath("prometheus").String(), RoundTripper: transport})
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	return &asker{prometheus: prometheusv1.NewAPI(client), client: kube.CoreV1().RESTClient()}, nil
}

// vector evaluates an expression at a time.
func (a *asker) vector(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	value, _, err := a.prometheus.Query(ctx, expr, at)
	if err != nil {
		return nil, fmt.Errorf("ask the monitor for %s: %w", expr, err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("ask the monitor for %s: it answers with a %s", expr, value.Type())
	}
	return vector, nil
}

// series evaluates an expression over a time.
func (a *asker) series(ctx context.Context, expr string, from, to time.Time, every time.Duration) (model.Matrix, error) {
	value, _, err := a.prometheus.QueryRange(ctx, expr, prometheusv1.Range{Start: from, End: to, Step: every})
	if err != nil {
		return nil, fmt.Errorf("ask the monitor for %s: %w", expr, err)
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("ask the monitor for %s: it answers with a %s", expr, value.Type())
	}
	return matrix, nil
}

// timelinePath is where the time line (services/logs) is asked for.
const timelinePath = "/timeline/api/v1/events"

// change is what is needed of an event of the time line.
type change struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Workload  string    `json:"workload,omitempty"`
	Object    string    `json:"object,omitempty"`
	Message   string    `json:"message"`
	By        string    `json:"by,omitempty"`
}

type changes struct {
	Events []change `json:"events"`
}

// changes returns what has changed in a namespace.
func (a *asker) changes(ctx context.Context, namespace string, from, to time.Time) ([]change, error) {
	text, err := a.client.Get().AbsPath(timelinePath).Param("namespace", namespace).
		Param("start", from.UTC().Format(time.RFC3339)).Param("end", to.UTC().Format(time.RFC3339)).
		Param("kind", "deploy,rollback,scale,restart,config").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask what has changed in namespace %s: %w", namespace, err)
	}
	var answer changes
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("read what has changed in namespace %s: %w", namespace, err)
	}
	return answer.Events, nil
}
