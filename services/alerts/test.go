package alerts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/types"
	"github.com/prometheus/common/model"

	"github.com/gantryhq/gantry/services/alerts/alertmanager"
)

// TestPath sends one notification to the receiver that the parameter receiver names.
const TestPath = Prefix + "test"

// testTimeout is how long one way of a receiver may take.
const testTimeout = 20 * time.Second

// TestResult says whether one way of a receiver took a notification.
type TestResult struct {
	Receiver    string `json:"receiver"`
	Integration string `json:"integration"`
	Error       string `json:"error,omitempty"` // "" is that it was accepted
}

// test sends a notification from where the real ones are sent, with the configuration that is in force.
func (s *Service) test(w http.ResponseWriter, r *http.Request, m *alertmanager.Manager) {
	name := r.URL.Query().Get("receiver")
	var receiver *config.Receiver
	for i, candidate := range m.Configured().Receivers {
		if candidate.Name == name {
			receiver = &m.Configured().Receivers[i]
		}
	}
	if receiver == nil {
		http.Error(w, fmt.Sprintf("there is no receiver %q in the configuration that is in force", name), http.StatusNotFound)
		return
	}
	var templates [][]byte
	if secret := s.watched.Load().secret(); secret != nil {
		templates = templatesOf(secret)
	}
	ways, err := m.Build(*receiver, templates)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	results := []TestResult{}
	for _, way := range ways {
		results = append(results, tell(r.Context(), name, way))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(results) // the client is gone when this fails
}

// tell sends the notification of a test one way.
func tell(ctx context.Context, receiver string, way notify.Integration) TestResult {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	labels := model.LabelSet{"alertname": "GantryTest", "severity": "info", "namespace": "gantry-system"}
	ctx = notify.WithGroupKey(ctx, fmt.Sprintf("gantry-test-%d", time.Now().UnixNano()))
	ctx = notify.WithReceiverName(ctx, receiver)
	ctx = notify.WithGroupLabels(ctx, labels)
	ctx = notify.WithNow(ctx, now())
	ctx = notify.WithRepeatInterval(ctx, time.Hour)
	result := TestResult{Receiver: receiver, Integration: way.Name()}
	_, err := way.Notify(ctx, &types.Alert{UpdatedAt: now(), Alert: model.Alert{
		Labels: labels, StartsAt: now(), EndsAt: now().Add(time.Minute),
		Annotations: model.LabelSet{
			"summary":     "This is a test of gantry alerts receiver test",
			"description": "Nothing is wrong. Alerts reach this receiver.",
			"first":       "Nothing.",
		},
	}})
	if err != nil {
		result.Error = err.Error()
	}
	return result
}
