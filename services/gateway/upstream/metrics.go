package upstream

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are kept by the pools themselves: their series end with them.
type counts struct {
	answers                    [len(classNames)]atomic.Uint64
	failures                   [outcomes]atomic.Uint64 // that of Answered stays 0
	retries                    [outcomes]atomic.Uint64
	overBudget                 atomic.Uint64
	ejections                  [rows]atomic.Uint64
	checksPassed, checksFailed atomic.Uint64
}

// add counts an attempt.
func (c *counts) add(o Outcome, status int) {
	switch class := status / 100; {
	case o != Answered:
		c.failures[o].Add(1)
	case class < len(classNames):
		c.answers[class].Add(1)
	default:
		c.answers[0].Add(1)
	}
}

// classNames are the classes of status codes; the first is for what is none.
var classNames = [...]string{"unknown", "1xx", "2xx", "3xx", "4xx", "5xx"}

var (
	endpointsDesc = prometheus.NewDesc("gantry_gateway_upstream_endpoints",
		"Endpoints of a Service port, by state: available, ejected or unhealthy.", []string{"service", "state"}, nil)
	inFlightDesc = prometheus.NewDesc("gantry_gateway_upstream_in_flight",
		"Requests that are with the endpoints of a Service port.", []string{"service"}, nil)
	requestsDesc = prometheus.NewDesc("gantry_gateway_upstream_requests_total",
		"Requests that endpoints of a Service port were given, each attempt for itself, by what came of them: 1xx to 5xx, connect, reset or timeout.", []string{"service", "result"}, nil)
	retriesDesc = prometheus.NewDesc("gantry_gateway_retries_total",
		"Further attempts, by what came of the one before: connect, reset, timeout or status.", []string{"service", "reason"}, nil)
	overBudgetDesc = prometheus.NewDesc("gantry_gateway_retries_over_budget_total",
		"Further attempts that were not made because the Service port's retry budget was used up.", []string{"service"}, nil)
	ejectionsDesc = prometheus.NewDesc("gantry_gateway_ejections_total",
		"Endpoints that got no requests for a while, by reason: connect, gateway-error or server-error.", []string{"service", "reason"}, nil)
	checksDesc = prometheus.NewDesc("gantry_gateway_health_checks_total",
		"Health checks of endpoints, by result: passed or failed.", []string{"service", "result"}, nil)
)

// Describe implements prometheus.Collector.
func (all *Pools) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsDesc, inFlightDesc, requestsDesc, retriesDesc, overBudgetDesc, ejectionsDesc, checksDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector. Series of what never happened are left out,
// for there may be thousands of Services.
func (all *Pools) Collect(to chan<- prometheus.Metric) {
	for _, p := range all.sorted() {
		service := p.service.String()
		gauge := func(d *prometheus.Desc, v int, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{service}, labels...)...)
		}
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			if v > 0 {
				to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{service}, labels...)...)
			}
		}
		states, inFlight := p.tally()
		for _, s := range []string{"available", "ejected", "unhealthy"} {
			if s == "available" || states[s] > 0 {
				gauge(endpointsDesc, states[s], s)
			}
		}
		gauge(inFlightDesc, inFlight)
		for class := range p.counts.answers {
			counter(requestsDesc, p.counts.answers[class].Load(), classNames[class])
		}
		for o := range p.counts.failures {
			counter(requestsDesc, p.counts.failures[o].Load(), outcomeNames[o])
		}
		for o := range p.counts.retries {
			counter(retriesDesc, p.counts.retries[o].Load(), outcomeNames[o])
		}
		counter(overBudgetDesc, p.counts.overBudget.Load())
		for i := range p.counts.ejections {
			counter(ejectionsDesc, p.counts.ejections[i].Load(), rowNames[i])
		}
		counter(checksDesc, p.counts.checksPassed.Load(), "passed")
		counter(checksDesc, p.counts.checksFailed.Load(), "failed")
	}
}

func (all *Pools) sorted() []*Pool {
	var list []*Pool
	if pools := all.pools.Load(); pools != nil {
		for _, p := range *pools {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *Pool) int { return strings.Compare(a.service.String(), b.service.String()) })
	return list
}

// condition is what an endpoint's state is called. It needs the pool's lock.
func (e *Endpoint) condition() string {
	switch {
	case e.unhealthy:
		return "unhealthy"
	case e.ejected:
		return "ejected"
	}
	return "available"
}

func (p *Pool) tally() (states map[string]int, inFlight int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	states = map[string]int{}
	for _, e := range p.state.Load().all {
		states[e.condition()]++
		inFlight += e.InFlight()
	}
	return states, inFlight
}

// Dump writes for people what stands behind each Service port, and how it does.
func (all *Pools) Dump(w io.Writer) {
	for _, p := range all.sorted() {
		p.dump(w)
	}
}

func (p *Pool) dump(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state.Load()
	fmt.Fprintf(w, "service %s, %d of %d endpoints get requests\n", p.service, len(s.open), len(s.all))
	s.policy.Dump(w, "  ")
	for _, e := range s.all {
		fmt.Fprintf(w, "  endpoint %s %s, %d in flight", e.Host, e.condition(), e.InFlight())
		if e.ejected {
			fmt.Fprintf(w, ", back in %s", time.Until(e.back).Round(time.Millisecond))
		}
		if part := share(e.since, time.Now(), s.policy.SlowStart); part < 1 {
			fmt.Fprintf(w, ", warming up at %.0f%%", 100*part)
		}
		fmt.Fprintln(w)
	}
}

var _ prometheus.Collector = (*Pools)(nil)
