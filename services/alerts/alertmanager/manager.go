// Package alertmanager groups, inhibits, silences and sends alerts: Alertmanager's own packages put
// together in this process, with its API (version 2) as a handler.
//
// Guarantees: a silence that was acknowledged and a notification that was sent are remembered across the
// end of the process in any way; so are alerts that fire, so that their end is told although the process
// was away. A configuration that is refused leaves the one before in force. Notifications are sent at
// least once: one whose sender died before it wrote it down is sent again.
//
// Requests must have been authorized before. One process owns the directory.
//
// Imported by services/alerts.
package alertmanager

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
)

// Bounds: they keep memory for others when somebody floods.
const (
	maxSilences    = 1000
	maxSilenceSize = 64 << 10
	maxPerName     = 5000 // alerts of one name
)

// Upkeep of what has ended.
const (
	retention           = 120 * time.Hour // of silences and notifications
	maintenanceInterval = 15 * time.Minute
	collectInterval     = 5 * time.Minute // of resolved alerts
	dispatchMaintenance = time.Minute
)

// Options is what a Manager is made from.
type Options struct {
	Dir string // holds what is remembered
	// ExternalURL is where people find the console; links in notifications begin with it.
	ExternalURL *url.URL
	Metrics     prometheus.Registerer
	Log         *slog.Logger
}

// Manager is an Alertmanager. Its methods are safe for concurrent use.
type Manager struct {
	Options
	alerts         *remembered
	silences       *silence.Silences
	silencer       *silence.Silencer
	silencesSaving sync.Mutex
	notified       *notified
	marker         marker.GroupMarker
	pipeline       *notify.PipelineBuilder
	dispatch       *dispatch.DispatcherMetrics
	api            http.Handler
	apiV2          *apiv2.API
	stop           func()
	upkeep         sync.WaitGroup

	applying   sync.Mutex // held while a configuration is swapped
	configured atomic.Pointer[config.Config]
	dispatcher atomic.Pointer[dispatch.Dispatcher]
	inhibitor  atomic.Pointer[inhibit.Inhibitor]
}

// New makes a Manager that remembers what its predecessor did. It sends nothing before Apply.
func New(o Options) (*Manager, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of alerts: %w", err)
	}
	var recorder eventrecorder.Recorder // records nothing
	m := &Manager{Options: o, marker: marker.NewGroupMarker(), dispatch: dispatch.NewDispatcherMetrics(false, o.Metrics, featurecontrol.NoopFlags{})}
	m.pipeline = notify.NewPipelineBuilder(o.Metrics, featurecontrol.NoopFlags{}, recorder)

	log, err := nflog.New(nflog.Options{SnapshotFile: m.path("notifications"), Retention: retention, Logger: o.Log, Metrics: o.Metrics})
	if err != nil {
		return nil, damaged("notifications that were sent", m.path("notifications"), err)
	}
	m.notified = &notified{log: log, path: m.path("notifications")}
	m.silences, err = silence.New(silence.Options{
		SnapshotFile: m.path("silences"), Retention: retention, Logger: o.Log, Metrics: o.Metrics, EventRecorder: recorder,
		Limits: silence.Limits{MaxSilences: func() int { return maxSilences }, MaxSilenceSizeBytes: func() int { return maxSilenceSize }},
	})
	if err != nil {
		return nil, damaged("silences", m.path("silences"), err)
	}
	m.silencer = silence.NewSilencer(m.silences, o.Log, recorder)

	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	kept, err := mem.NewAlerts(ctx, collectInterval, maxPerName, m.silencer, o.Log, recorder, o.Metrics, featurecontrol.NoopFlags{})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start alerts: %w", err)
	}
	m.alerts = &remembered{Alerts: kept, path: m.path("alerts"), changed: make(chan struct{}, 1)}
	if err := m.alerts.load(ctx); err != nil {
		m.Close()
		return nil, damaged("alerts", m.path("alerts"), err)
	}
	m.apiV2, err = apiv2.NewAPI(m.alerts, m.groups, m.marker.Muted, m.silences, nil, o.Log, o.Metrics)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("start the API of alerts: %w", err)
	}
	m.api = m.remembering(m.apiV2.Handler)
	m.upkeep.Go(func() { log.Maintenance(maintenanceInterval, "", ctx.Done(), m.notified.save) })
	m.upkeep.Go(func() { m.silences.Maintenance(maintenanceInterval, "", ctx.Done(), m.saveSilences) })
	m.upkeep.Go(func() { m.alerts.keepSaving(ctx, o.Log) })
	return m, nil
}

func (m *Manager) path(name string) string { return filepath.Join(m.Dir, name) }

func damaged(what, path string, err error) error {
	return fmt.Errorf("read the %s in %s: %w; move the file away to go on without them", what, path, err)
}

// Close ends everything. What is remembered is on disk when it returns.
func (m *Manager) Close() {
	if d := m.dispatcher.Load(); d != nil {
		d.Stop()
	}
	if i := m.inhibitor.Load(); i != nil {
		i.Stop()
	}
	m.stop()
	m.upkeep.Wait()
	m.notified.close()
	m.alerts.Close()
}

// Put takes alerts over: new ones, ones that go on, and ones that have ended.
func (m *Manager) Put(ctx context.Context, alerts ...*alert.Alert) error {
	return m.alerts.Put(ctx, alerts...)
}

// Configured is what is in force.
func (m *Manager) Configured() *config.Config { return m.configured.Load() }

// ServeHTTP answers the API, version 2, relative to /api/v2.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.api.ServeHTTP(w, r) }

func (m *Manager) groups(ctx context.Context, ofRoute func(*dispatch.Route) bool, ofAlert func(*alert.Alert, time.Time) bool) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
	return m.dispatcher.Load().Groups(ctx, ofRoute, ofAlert)
}
