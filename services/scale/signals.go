package scale

import (
	"context"
	"fmt"
	"math"
	"time"

	prometheusv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/samples"
	"github.com/gantryhq/gantry/services/scale/decision"
)

// In a burst the rate of requests is believed after a glance, if so many came within it that
// chance cannot make much of a difference.
const (
	glance        = 250 * time.Millisecond
	manyAtAGlance = 100
)

// signals are what a policy's targets are compared with.
type signals struct {
	inFlight, arrived *decision.Series
	requests          uint64 // up to the last reading
	known             bool   // a gateway tells

	polled []*polled // by place in spec.targets; nil for those of requests
}

// polled is a signal that has to be asked for.
type polled struct {
	what    string
	ask     func(context.Context) (total, perReplica float64, err error)
	period  time.Duration
	askedAt time.Time
	asking  chan answer // or nil

	answer
	answered bool
}

type answer struct {
	total, perReplica float64
	err               error
}

// renew makes the signals of a policy, and keeps what was read for its former spec.
func (old *signals) renew(p *v1alpha1.ScalePolicy) *signals {
	window := seconds(p.Spec.Windows.StableSeconds)
	n := &signals{polled: make([]*polled, len(p.Spec.Targets))}
	if old != nil && old.inFlight.Window() == window {
		n.inFlight, n.arrived, n.requests, n.known = old.inFlight, old.arrived, old.requests, old.known
	} else {
		n.inFlight, n.arrived = decision.NewSeries(window), decision.NewSeries(window)
	}
	return n
}

// read takes a reading of the demand, and asks for what has to be asked for.
func (g *signals) read(ctx context.Context, s *scaler, p *v1alpha1.ScalePolicy, now time.Time) {
	state, known := s.demand()
	if known {
		if g.known && state.Requests >= g.requests {
			g.arrived.Add(now, float64(state.Requests-g.requests))
		} else {
			g.arrived.Add(now, 0)
		}
		g.requests = state.Requests
		g.inFlight.Set(now, float64(state.InFlight+state.Waiting))
	}
	g.known = known
	for i, target := range p.Spec.Targets {
		if g.polled[i] == nil {
			g.polled[i] = s.newPolled(target)
		}
		if q := g.polled[i]; q != nil {
			q.poll(ctx, now, s)
		}
	}
}

// poll takes an answer in, and asks again when it is time to, without waiting for the answer.
func (q *polled) poll(ctx context.Context, now time.Time, s *scaler) {
	select {
	case a := <-q.asking:
		q.asking, q.answer, q.answered = nil, a, true
		if a.err != nil {
			s.c.metrics.errors.WithLabelValues(s.name.Namespace, s.name.Name).Inc()
		}
	default:
	}
	if q.asking != nil || now.Sub(q.askedAt) < q.period {
		return
	}
	q.askedAt = now
	asking := make(chan answer, 1)
	q.asking = asking
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		total, perReplica, err := q.ask(ctx)
		asking <- answer{total, perReplica, err}
		s.nudge()
	}()
}

// all are the signals for a decision.
func (g *signals) all(s *scaler, p *v1alpha1.ScalePolicy, now time.Time) []decision.Signal {
	stable, panicking := seconds(p.Spec.Windows.StableSeconds), seconds(p.Spec.Windows.PanicSeconds)
	list := make([]decision.Signal, 0, len(p.Spec.Targets))
	for i, t := range p.Spec.Targets {
		var series *decision.Series
		var signal decision.Signal
		switch {
		case t.RequestsInFlight != nil:
			series = g.inFlight
			signal.What, signal.PerReplica = "requests in flight", float64(t.RequestsInFlight.PerReplica)
		case t.RequestsPerSecond != nil:
			series = g.arrived
			signal.What, signal.PerReplica = "requests/s", float64(t.RequestsPerSecond.PerReplica)
		default:
			list = append(list, g.polled[i].signal())
			continue
		}
		signal.Known = g.known
		signal.Problem = s.demandProblem()
		signal.Settled = series.Settled(now, stable)
		signal.Stable = series.Mean(now, stable)
		signal.Burst = max(series.Mean(now, panicking), series.Mean(now, min(panicking, time.Second)))
		if rate := series.Mean(now, glance); series == g.arrived && rate*glance.Seconds() >= manyAtAGlance {
			signal.Burst = max(signal.Burst, rate)
		}
		list = append(list, signal)
	}
	return list
}

// demandProblem says why the demand is not known.
func (s *scaler) demandProblem() string {
	if len(s.status.services) == 0 {
		return "no Service chooses the target's pods, so the gateway cannot tell of requests"
	}
	return "no gateway tells of the requests for Service " + joined(s.status.services)
}

func (q *polled) signal() decision.Signal {
	switch {
	case q == nil || !q.answered:
		return decision.Signal{What: "a target", Problem: "it has not been asked for yet"}
	case q.err != nil:
		return decision.Signal{What: q.what, Problem: fmt.Sprintf("%s is not known: %v", q.what, q.err)}
	}
	return decision.Signal{
		What: q.what, Known: true, Settled: true, Stable: q.total, PerReplica: q.perReplica, Tolerance: 0.1,
	}
}

// newPolled is how a target's signal is asked for; nil for those of requests.
func (s *scaler) newPolled(t v1alpha1.ScaleTarget) *polled {
	switch {
	case t.CPU != nil:
		return &polled{what: "cores of CPU", period: resourcePeriod, ask: s.usage(corev1.ResourceCPU, t.CPU)}
	case t.Memory != nil:
		return &polled{what: "bytes of memory", period: resourcePeriod, ask: s.usage(corev1.ResourceMemory, t.Memory)}
	case t.Query != nil:
		return &polled{what: "of query " + t.Query.Query, period: seconds(max(1, t.Query.PeriodSeconds)), ask: s.query(t.Query)}
	}
	return nil
}

// usage asks for what the target's pods use together. It runs beside the scaler, so it takes
// from it what it needs now.
func (s *scaler) usage(name corev1.ResourceName, t *v1alpha1.ResourceTarget) func(context.Context) (float64, float64, error) {
	return func(ctx context.Context) (float64, float64, error) {
		at := s.seen.Load()
		if at == nil {
			return 0, 0, fmt.Errorf("the target has not been read yet")
		}
		var perReplica float64
		switch {
		case t.PerReplica != nil:
			perReplica = t.PerReplica.AsApproximateFloat64()
		case t.UtilizationPercent != nil:
			request := at.podRequests[name]
			if request.IsZero() {
				return 0, 0, fmt.Errorf("utilizationPercent needs a target whose pod template requests %s; perReplica does not", name)
			}
			perReplica = request.AsApproximateFloat64() * float64(*t.UtilizationPercent) / 100
		}
		if at.selector == "" {
			return 0, 0, fmt.Errorf("the target does not say which pods it has (status.selector of its scale)")
		}
		pods, err := s.c.clients.metrics.PodMetricses(s.name.Namespace).List(ctx, metav1.ListOptions{LabelSelector: at.selector})
		if err != nil {
			return 0, 0, fmt.Errorf("ask for the pods' metrics: %w", err)
		}
		var total float64
		for _, pod := range pods.Items {
			for _, c := range pod.Containers {
				total += c.Usage.Name(name, "").AsApproximateFloat64()
			}
		}
		return total, perReplica, nil
	}
}

// server is the Prometheus server that a target names, or the installation's own.
func (s *scaler) server(url string) (*samples.Reader, error) {
	if url != "" {
		return samples.At(url)
	}
	return samples.New(s.c.cfg.Client)
}

// query asks a Prometheus server. What it answers beside the number stays with us: whoever may
// write policies need not be allowed to read everything that this process can reach.
func (s *scaler) query(t *v1alpha1.QueryTarget) func(context.Context) (float64, float64, error) {
	name := t.URL
	if name == "" {
		name = "of the installation's own metrics"
	}
	return func(ctx context.Context) (float64, float64, error) {
		server, err := s.server(t.URL)
		if err != nil {
			return 0, 0, fmt.Errorf("use the server %s: %w", name, err)
		}
		value, err := server.Value(ctx, t.Query, time.Now())
		if err != nil {
			if refused, ok := err.(*prometheusv1.Error); ok {
				return 0, 0, fmt.Errorf("the server %s answers with an error of type %s", name, refused.Type)
			}
			return 0, 0, fmt.Errorf("the server %s cannot be asked", name)
		}
		total, err := sum(value)
		return total, t.PerReplica.AsApproximateFloat64(), err
	}
}

func sum(v model.Value) (float64, error) {
	var total float64
	switch v := v.(type) {
	case *model.Scalar:
		total = float64(v.Value)
	case model.Vector:
		if len(v) == 0 {
			return 0, fmt.Errorf("the query has no result")
		}
		for _, s := range v {
			total += float64(s.Value)
		}
	default:
		return 0, fmt.Errorf("the result is a %s, and not a number or a list of numbers", v.Type())
	}
	if math.IsNaN(total) || math.IsInf(total, 0) {
		return 0, fmt.Errorf("the result is %v", total)
	}
	return max(0, total), nil
}
