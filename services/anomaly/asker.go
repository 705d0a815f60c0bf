package anomaly

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/samples"
)

// asker asks the monitor and the time line.
type asker struct {
	*samples.Reader
	client rest.Interface
}

func newAsker(cfg *rest.Config) (*asker, error) {
	reader, err := samples.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start anomaly detection: %w", err)
	}
	return &asker{reader, kube.CoreV1().RESTClient()}, nil
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
