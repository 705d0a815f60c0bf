package alerts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/gantryhq/gantry/services/alerts/defaults"
	"github.com/gantryhq/gantry/services/alerts/ruleset"
)

// Times of Prometheus's own defaults.
const (
	outageTolerance = time.Hour        // for which it is remembered since when an alert is pending
	forGracePeriod  = 10 * time.Minute // that an alert is pending at least after a start, if it has to be for longer
	resendDelay     = time.Minute
)

// Evaluate evaluates the rules over samples, and writes what they record, until ctx ends. It waits for Run
// to know the rules.
func (s *Service) Evaluate(ctx context.Context, samples storage.Storage, engine promql.QueryEngine) error {
	select {
	case <-s.rules.known:
	case <-ctx.Done():
		return nil
	}
	query := confined(rules.EngineQueryFunc(engine, samples))
	links := &links{query: query, known: map[model.Fingerprint]handed{}}
	m := rules.NewManager(&rules.ManagerOptions{
		ExternalURL: s.cfg.ExternalURL, QueryFunc: query, Appendable: samples, Queryable: samples,
		NotifyFunc: func(ctx context.Context, expr string, alerts ...*rules.Alert) { s.hand(ctx, links, expr, alerts) },
		Context:    ctx, Logger: s.cfg.Log, Metrics: s.ofGroups, GroupLoader: s.rules,
		OutageTolerance: outageTolerance, ForGracePeriod: forGracePeriod, ResendDelay: resendDelay,
	})
	update := func() error {
		return m.Update(s.cfg.Interval, s.rules.names(), labels.EmptyLabels(), s.cfg.ExternalURL.String(), nil)
	}
	if err := update(); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	s.evaluating.Store(m)
	defer s.evaluating.Store(nil)
	var running sync.WaitGroup
	running.Go(m.Run)
	defer running.Wait()
	defer m.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.rules.changed:
			if err := update(); err != nil { // each was checked when it was read
				s.cfg.Log.Error("changed rules cannot be loaded, those of before stay in force", "err", err)
				continue
			}
			s.put(ctx, links.orphans(m.RuleGroups()))
		}
	}
}

// confined makes queries of rules that may see one namespace only do so; also those in their templates.
func confined(query rules.QueryFunc) rules.QueryFunc {
	return func(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
		if namespace := ruleset.ConfinedTo(fileOf(ctx)); namespace != "" {
			var err error
			if expr, err = ruleset.Confine(expr, namespace); err != nil {
				return nil, err
			}
		}
		return query(ctx, expr, at)
	}
}

// fileOf is the rule file whose group is evaluated in ctx.
func fileOf(ctx context.Context) string {
	origin, _ := ctx.Value(promql.QueryOrigin{}).(map[string]any)
	group, _ := origin["ruleGroup"].(map[string]string)
	return group["file"]
}

// hand gives alerts that fire, go on or have ended to the manager.
func (s *Service) hand(ctx context.Context, links *links, expr string, list []*rules.Alert) {
	var out []*alert.Alert
	for _, a := range list {
		to := &alert.Alert{UpdatedAt: now(), Alert: model.Alert{
			Labels: set(a.Labels), Annotations: set(a.Annotations), StartsAt: a.FiredAt, EndsAt: a.ResolvedAt,
			GeneratorURL: s.cfg.ExternalURL.String() + graphPath(expr),
		}}
		if to.Labels[model.AlertNameLabel] == watchdog {
			s.heartbeat.beat()
		}
		if a.ResolvedAt.IsZero() {
			to.EndsAt = a.ValidUntil
		}
		links.add(ctx, expr, to)
		out = append(out, to)
	}
	s.put(ctx, out)
}

func (s *Service) put(ctx context.Context, out []*alert.Alert) {
	if len(out) == 0 {
		return
	}
	m := s.manager.Load()
	err := errors.New("alerting is starting")
	if m != nil {
		err = m.Put(ctx, out...)
	}
	if err != nil {
		s.failures.Add(float64(len(out)))
		s.cfg.Log.Error("alerts are lost until they are told again", "alerts", len(out), "err", err)
	}
}

// set is a label set as Alertmanager has it.
func set(l labels.Labels) model.LabelSet {
	out := make(model.LabelSet, l.Len())
	l.Range(func(l labels.Label) {
		if l.Value != "" {
			out[model.LabelName(l.Name)] = model.LabelValue(l.Value)
		}
	})
	return out
}

// ruleFiles are the rules that are in force. It implements rules.GroupLoader, which its name calls files.
type ruleFiles struct {
	builtIn []ruleset.File
	known   chan struct{} // closed when they are known for the first time
	changed chan struct{} // capacity 1

	mu    sync.Mutex // guards following
	files map[string]ruleset.File
	order []string
}

func newRuleFiles() (*ruleFiles, error) {
	builtIn, err := defaults.Files()
	if err != nil {
		return nil, err
	}
	return &ruleFiles{builtIn: builtIn, known: make(chan struct{}), changed: make(chan struct{}, 1)}, nil
}

// replace puts the rules of objects in force, beside those that come with the program.
func (f *ruleFiles) replace(ofObjects []ruleset.File) {
	f.mu.Lock()
	first := f.files == nil
	f.files, f.order = map[string]ruleset.File{}, nil
	for _, list := range [][]ruleset.File{f.builtIn, ofObjects} {
		for _, file := range list {
			f.files[file.Name] = file
			f.order = append(f.order, file.Name)
		}
	}
	f.mu.Unlock()
	if first {
		close(f.known)
		return
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *ruleFiles) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.order
}

func (f *ruleFiles) Load(name string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, here := f.files[name]
	if !here {
		return nil, []error{fmt.Errorf("there are no rules %s any more", name)}
	}
	return &rulefmt.RuleGroups{Groups: file.Groups}, nil
}

func (f *ruleFiles) Parse(expr string) (parser.Expr, error) { return ruleset.ParseExpr(expr) }
