package alerts

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/gantryhq/gantry/services/alerts/alertmanager"
)

// watchdog is the alert that always fires.
const watchdog = "Watchdog"

// silence is how long the Watchdog may not be heard: it is told again every resendDelay.
const silence = 3 * resendDelay

// heartbeat knows when rules worked last, and tells when they no longer do. That is half of the truth: of the
// end of this process, or of the machine, only somebody outside can tell who expects the Watchdog.
type heartbeat struct {
	started time.Time
	last    atomic.Int64 // Unix nanoseconds; 0 is never
}

func (h *heartbeat) beat() { h.last.Store(time.Now().UnixNano()) }

func (h *heartbeat) metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gantry_alerts_heartbeat_timestamp_seconds", Help: "When the rules were evaluated and told of for the last time, Unix time; 0 is never.",
	}, func() float64 { return float64(h.last.Load()) / 1e9 })
}

// lastBeat is the zero time when there was none.
func (h *heartbeat) lastBeat() time.Time {
	if n := h.last.Load(); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

// watch tells of a heartbeat that is missed, past the rules that no longer work.
func (h *heartbeat) watch(ctx context.Context, m *alertmanager.Manager, log *slog.Logger) error {
	h.started = now()
	every := time.NewTicker(resendDelay / 2)
	defer every.Stop()
	var since time.Time // when it was found missing
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		last := h.lastBeat()
		if last.Before(h.started) {
			last = h.started
		}
		missing := time.Since(last) > silence
		if !missing && since.IsZero() {
			continue
		}
		a := &alert.Alert{UpdatedAt: now(), Alert: model.Alert{StartsAt: since, EndsAt: now().Add(4 * resendDelay),
			Labels: model.LabelSet{model.AlertNameLabel: "AlertingDown", "severity": "critical"},
			Annotations: model.LabelSet{
				"summary":     "Rules are not evaluated, so no other alert can fire",
				"description": model.LabelValue("The Watchdog was heard for the last time at " + last.Format(time.RFC3339) + "."),
				"first":       "Look at the log of `gantry serve` for what the monitor says; then at free disk space.",
				"runbook":     "docs/operate/alerts.md#alertingdown", "object": "alerting",
			}}}
		switch {
		case missing && since.IsZero():
			since = now()
			a.StartsAt = since
			log.Error("rules are not evaluated: the heartbeat of alerting is missing", "since", last)
		case !missing:
			a.EndsAt, since = now(), time.Time{}
		}
		if err := m.Put(ctx, a); err != nil {
			log.Error("cannot tell that the heartbeat of alerting is missing", "err", err)
		}
	}
}

// healthPath is where health is told.
const healthPath = Prefix + "health"

// health tells whether alerting works, from rules to the receivers' configuration.
func (s *Service) health(w http.ResponseWriter) {
	last := s.heartbeat.lastBeat()
	answer := struct {
		Working   bool       `json:"working"`
		Heartbeat *time.Time `json:"heartbeat"` // when rules worked last; null is not yet
		Refused   []refusal  `json:"refused"`   // rules and configuration that are not in force
	}{Working: time.Since(last) <= silence, Refused: s.watched.Load().refusals()}
	if !last.IsZero() {
		answer.Heartbeat = &last
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client is gone when this fails
}
