package alertmanager

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/config/receiver"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"go.yaml.in/yaml/v3"
)

//go:embed alertmanager.yaml
var defaultConfig []byte

// Default is the configuration of who has none: groups and inhibitions, and nobody who is told.
func Default() []byte { return bytes.Clone(defaultConfig) }

//go:embed notification.tmpl
var notification []byte

// Load reads an Alertmanager configuration. One that would read files of the machine is refused:
// who may write it need not be who may read those.
func Load(text []byte) (*config.Config, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if name := ofMachine(&document); name != "" {
		return nil, fmt.Errorf("field %s is not supported here: write what it names into the configuration, which is a Secret; templates are its keys that end in .tmpl", name)
	}
	compat.InitFromFlags(promslog.NewNopLogger(), featurecontrol.NoopFlags{})
	return config.Load(string(text))
}

// ofMachine finds a field that would use the machine's files, or the network for something else than telling.
func ofMachine(n *yaml.Node) string {
	for i, c := range n.Content {
		isKey := n.Kind == yaml.MappingNode && i%2 == 0
		if isKey && (strings.HasSuffix(c.Value, "_file") || slices.Contains([]string{"templates", "event_recorder", "tracing"}, c.Value)) {
			return c.Value
		}
		if name := ofMachine(c); name != "" {
			return name
		}
	}
	return ""
}

// Build makes what sends the notifications of a receiver. templates are texts that define further templates.
func (m *Manager) Build(r config.Receiver, templates [][]byte) ([]notify.Integration, error) {
	t, err := m.templates(templates)
	if err != nil {
		return nil, err
	}
	return receiver.BuildReceiverIntegrations(r, t, m.Log)
}

func (m *Manager) templates(further [][]byte) (*template.Template, error) {
	t, err := template.FromGlobs(nil)
	if err != nil {
		return nil, fmt.Errorf("read templates: %w", err)
	}
	for _, text := range append([][]byte{notification}, further...) {
		if err := t.Parse(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("read templates: %w", err)
		}
	}
	t.ExternalURL = m.ExternalURL
	return t, nil
}

// Apply puts a configuration in force. When it returns an error, nothing has changed.
func (m *Manager) Apply(cfg *config.Config, templates [][]byte) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	t, err := m.templates(templates)
	if err != nil {
		return err
	}
	routes := dispatch.NewRoute(cfg.Route, nil)
	receivers := map[string][]notify.Integration{}
	for _, r := range cfg.Receivers {
		built, err := receiver.BuildReceiverIntegrations(r, t, m.Log)
		if err != nil {
			return fmt.Errorf("receiver %s: %w", r.Name, err)
		}
		receivers[r.Name] = built
	}
	intervals := map[string][]timeinterval.TimeInterval{}
	for _, i := range cfg.MuteTimeIntervals {
		intervals[i.Name] = i.TimeIntervals
	}
	for _, i := range cfg.TimeIntervals {
		intervals[i.Name] = i.TimeIntervals
	}

	// Nothing below fails. The old ones end first, lest both send the same.
	if d := m.dispatcher.Load(); d != nil {
		d.Stop()
	}
	if i := m.inhibitor.Load(); i != nil {
		i.Stop()
	}
	var recorder eventrecorder.Recorder
	inhibitor := inhibit.NewInhibitor(m.alerts, cfg.InhibitRules, m.Log, recorder)
	stages := m.pipeline.New(receivers, func() time.Duration { return 0 }, inhibitor, m.silencer,
		timeinterval.NewIntervener(intervals), m.marker, m.notified, nil)
	dispatcher := dispatch.NewDispatcher(m.alerts, routes, stages, m.marker,
		func(d time.Duration) time.Duration { return max(d, notify.MinTimeout) }, dispatchMaintenance, nil, m.Log, recorder, m.dispatch, t)
	m.apiV2.Update(cfg, func(ctx context.Context, labels model.LabelSet) {
		m.inhibitor.Load().Mutes(ctx, labels)
		m.silencer.Mutes(ctx, labels)
	})
	// The inhibitor knows what fires before the dispatcher tells of anything.
	go inhibitor.Run()
	inhibitor.WaitForLoading()
	m.inhibitor.Store(inhibitor)
	go dispatcher.Run(time.Now())
	dispatcher.WaitForLoading()
	m.dispatcher.Store(dispatcher)
	m.configured.Store(cfg)
	return nil
}
