package alerts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/gantryhq/gantry/services/alerts/defaults"
)

// page is what one scrape of a target brings.
type page struct{ bytes.Buffer }

// put adds a sample; labels are names and values in turn.
func (p *page) put(name string, value float64, labels ...string) {
	p.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		p.WriteByte("{,"[min(i, 1)])
		p.WriteString(labels[i] + "=" + strconv.Quote(labels[i+1]))
	}
	if len(labels) > 0 {
		p.WriteByte('}')
	}
	p.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// target is scraped by the monitor.
type target struct {
	labels   []string // names and values in turn
	interval int      // seconds
	tell     func(*page)
	state    func() targetState // or nil for healthy

	phase  int // seconds; when in each interval it is scraped
	series map[string]*series
	round  int
}

type targetState int

const (
	answers targetState = iota
	refuses             // connections
	hangs               // until the scrape's time is up
	gone                // from discovery
)

type series struct {
	ref    storage.SeriesRef
	labels labels.Labels
	round  int // of the last scrape that brought it
}

// monitor is the platform's, at simulated times.
type monitor struct {
	db      *tsdb.DB
	targets []*target
	groups  []*ruleGroup
	later   map[int][]func() error // what becomes known at a time
	restart int                    // until then it is not running
	ctx     context.Context
	random  *rand.Rand
}

type ruleGroup struct {
	*rules.Group
	interval, phase int
	rules           []rules.Rule
}

// raised is an alert that fires, with what names its object.
type raised struct {
	labels labels.Labels // alertname and severity included
	at     int
}

// newMonitor starts with an empty database and the rules that come with the program. The seed decides when in their
// intervals targets are scraped and groups evaluated.
func newMonitor(t testing.TB, seed uint64) *monitor {
	t.Helper()
	o := tsdb.DefaultOptions()
	o.WALSegmentSize, o.MinBlockDuration, o.MaxBlockDuration, o.RetentionDuration = -1, int64(24*time.Hour/time.Millisecond), int64(24*time.Hour/time.Millisecond), 0
	o.StripeSize = 1 << 9
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := tsdb.Open(t.TempDir(), quiet, nil, o, nil)
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	m := &monitor{db: db, later: map[int][]func() error{}, ctx: t.Context(), random: rand.New(rand.NewPCG(seed, 1))}
	expressions := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{Logger: quiet, MaxSamples: 5_000_000, Timeout: time.Minute, Parser: expressions,
		NoStepSubqueryIntervalFn: func(int64) int64 { return 10_000 }})
	opts := &rules.ManagerOptions{
		Context: t.Context(), Appendable: db, Queryable: db, QueryFunc: rules.EngineQueryFunc(engine, db), Logger: quiet,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, ExternalURL: &url.URL{}, Metrics: rules.NewGroupMetrics(nil), Parser: expressions,
	}
	files, err := defaults.Files()
	check(t, err)
	for _, f := range files {
		for _, g := range f.Groups {
			group := &ruleGroup{interval: int(time.Duration(g.Interval).Seconds())}
			if group.interval == 0 {
				group.interval = 10
			}
			for _, r := range g.Rules {
				expr, err := expressions.ParseExpr(r.Expr)
				check(t, err)
				if r.Record != "" {
					group.rules = append(group.rules, rules.NewRecordingRule(r.Record, expr, labels.FromMap(r.Labels)))
					continue
				}
				group.rules = append(group.rules, rules.NewAlertingRule(r.Alert, expr, time.Duration(r.For), time.Duration(r.KeepFiringFor),
					labels.FromMap(r.Labels), labels.FromMap(r.Annotations), labels.EmptyLabels(), "", true, quiet))
			}
			group.phase = m.random.IntN(group.interval)
			group.Group = rules.NewGroup(rules.GroupOptions{Name: g.Name, File: f.Name, Interval: time.Duration(g.Interval), Rules: group.rules, Opts: opts})
			m.groups = append(m.groups, group)
		}
	}
	return m
}

func (m *monitor) add(t *target) {
	t.phase, t.series = m.random.IntN(t.interval), map[string]*series{}
	m.targets = append(m.targets, t)
}

// step does what falls to second now: scrapes, and evaluations when they are wanted.
func (m *monitor) step(now int, evaluate bool) error {
	var failed error
	for _, f := range m.later[now] {
		failed = errors.Join(failed, f())
	}
	delete(m.later, now)
	if now < m.restart {
		return failed
	}
	for _, t := range m.targets {
		if now%t.interval == t.phase {
			failed = errors.Join(failed, m.scrape(t, now))
		}
	}
	if !evaluate {
		return failed
	}
	for _, g := range m.groups {
		if now%g.interval == g.phase {
			g.Eval(m.ctx, at(now).Add(700*time.Millisecond)) // scrapes of this second are over
			for _, r := range g.rules {
				if err := r.LastError(); err != nil {
					failed = errors.Join(failed, fmt.Errorf("rule %s: %w", r.Name(), err))
				}
			}
		}
	}
	return failed
}

// stale marks the end of a series.
var stale = math.Float64frombits(value.StaleNaN)

// began is when simulated time begins.
var began = time.Unix(1_790_000_000, 0)

func at(second int) time.Time { return began.Add(time.Duration(second) * time.Second) }

// scrape brings a target's samples, or writes down that it did not answer.
func (m *monitor) scrape(t *target, now int) error {
	state := answers
	if t.state != nil {
		state = t.state()
	}
	stamp := at(now).UnixMilli() + m.random.Int64N(200)
	switch state {
	case answers:
		p := &page{}
		t.tell(p)
		return m.store(t, stamp, p.Bytes(), 1, 0.01)
	case refuses:
		return m.store(t, stamp, nil, 0, 0.001)
	case gone:
		if t.round > 0 {
			t.round = 0
			err := m.store(t, stamp, nil, stale, stale)
			t.series = map[string]*series{}
			return err
		}
		return nil
	}
	// Its time is up when the interval is: only then is it known.
	m.later[now+min(t.interval, 10)] = append(m.later[now+min(t.interval, 10)], func() error { return m.store(t, stamp, nil, 0, 10) })
	return nil
}

// store writes what a scrape brought, with staleness markers for what it no longer did.
func (m *monitor) store(t *target, stamp int64, text []byte, up, took float64) error {
	a := m.db.Appender(m.ctx)
	if !math.IsNaN(up) {
		t.round++
	}
	write := func(key string, v float64, lset func() labels.Labels) error {
		s := t.series[key]
		if s == nil {
			s = &series{labels: lset()}
			t.series[key] = s
		}
		s.round = t.round
		ref, err := a.Append(s.ref, s.labels, stamp, v)
		s.ref = ref
		return err
	}
	own := func(name string) func() labels.Labels {
		return func() labels.Labels { return labels.FromStrings(append([]string{"__name__", name}, t.labels...)...) }
	}
	p := textparse.NewPromParser(text, labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("scrape of %v: %w in\n%s", t.labels, err, text), a.Rollback())
		}
		if entry != textparse.EntrySeries {
			continue
		}
		name, _, v := p.Series()
		err = write(string(name), v, func() labels.Labels {
			var l labels.Labels
			p.Labels(&l)
			b := labels.NewBuilder(l)
			for i := 0; i+1 < len(t.labels); i += 2 {
				if l.Get(t.labels[i]) == "" { // labels of the platform's targets are honoured
					b.Set(t.labels[i], t.labels[i+1])
				}
			}
			return b.Labels()
		})
		if err != nil {
			return errors.Join(err, a.Rollback())
		}
	}
	err := errors.Join(write("up", up, own("up")), write("scrape_duration_seconds", took, own("scrape_duration_seconds")))
	for key, s := range t.series {
		if s.round != t.round {
			_, e := a.Append(s.ref, s.labels, stamp, stale)
			err = errors.Join(err, e)
			delete(t.series, key)
		}
	}
	if err != nil {
		return errors.Join(err, a.Rollback())
	}
	return a.Commit()
}

// firing are the alerts that fire now, without the Watchdog.
func (m *monitor) firing() []labels.Labels {
	var list []labels.Labels
	for _, g := range m.groups {
		for _, r := range g.rules {
			if a, ok := r.(*rules.AlertingRule); ok && a.Name() != "Watchdog" {
				for _, one := range a.ActiveAlerts() {
					if one.State == rules.StateFiring {
						list = append(list, one.Labels)
					}
				}
			}
		}
	}
	return list
}

// exposed is what an HTTP handler answers to a scrape.
func exposed(h http.Handler, p *page) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	p.Write(w.Body.Bytes())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
