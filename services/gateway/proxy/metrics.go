package proxy

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// metrics are described in the README of services/gateway. Each event loop counts
// in a lane of its own, and net/http in the last one; a scrape adds them up.
type metrics struct {
	inFlight []laneCount

	rules sync.Map // *route.Rule to *ruleInfo, of the table in force

	mu     sync.Mutex // guards routes
	routes map[string]*routeCounts
}

// laneCount is a count of which each lane has a part.
type laneCount struct {
	atomic.Int64
	_ [56]byte // other loops write beside it
}

// ruleInfo is what is found out about a rule once, so that requests need not.
type ruleInfo struct {
	ordinary bool // the event loop can carry its requests
	filtered bool // it changes them
	counts   *routeCounts
}

// routeCounts are a route's answers, by lane.
type routeCounts struct{ lanes []answers }

// answers counts the answers of a route in one lane.
type answers struct {
	took        [len(durations) + 1]atomic.Uint64 // the last is beyond them all
	nanoseconds atomic.Uint64
	codes       atomic.Pointer[[]codeCount]
	mu          sync.Mutex // serialises additions to codes
	_           [64]byte   // other loops write beside it
}

type codeCount struct {
	status int
	count  *atomic.Uint64
}

// durations are the upper bounds of the histogram's buckets.
var durations = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

var (
	requestsDesc = prometheus.NewDesc("gantry_gateway_requests_total",
		"Requests answered, by route and status code. The route is empty where none matched; code 499 is a client that left.",
		[]string{"route", "code"}, nil)
	durationDesc = prometheus.NewDesc("gantry_gateway_request_duration_seconds",
		"Time from a request's header to the end of its response, by route.", []string{"route"}, nil)
	inFlightDesc = prometheus.NewDesc("gantry_gateway_requests_in_flight",
		"Requests being answered, upgraded connections included.", nil, nil)
)

func newMetrics(registry prometheus.Registerer, lanes int) *metrics {
	m := &metrics{
		inFlight: make([]laneCount, lanes),
		routes:   map[string]*routeCounts{},
	}
	if registry != nil {
		registry.MustRegister(m)
	}
	return m
}

// of returns what is known of a rule; nil stands for none.
func (m *metrics) of(r *route.Rule) *ruleInfo {
	if known, ok := m.rules.Load(r); ok {
		return known.(*ruleInfo)
	}
	info := &ruleInfo{counts: m.countsOf("")}
	if r != nil {
		info.counts, info.ordinary = m.countsOf(r.Route), isOrdinary(r)
		info.filtered = r.Filters.Any()
		for i := range r.Backends {
			info.filtered = info.filtered || r.Backends[i].Filters.Any()
		}
	}
	known, _ := m.rules.LoadOrStore(r, info)
	return known.(*ruleInfo)
}

func (m *metrics) countsOf(route string) *routeCounts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.routes[route]
	if c == nil {
		c = &routeCounts{lanes: make([]answers, len(m.inFlight))}
		m.routes[route] = c
	}
	return c
}

// observe counts a request that was answered.
func (i *ruleInfo) observe(lane, status int, took time.Duration) {
	a := &i.counts.lanes[lane]
	bucket := 0
	for bucket < len(durations) && took > durations[bucket] {
		bucket++
	}
	a.took[bucket].Add(1)
	a.nanoseconds.Add(uint64(max(took, 0)))
	if codes := a.codes.Load(); codes != nil {
		for _, c := range *codes {
			if c.status == status {
				c.count.Add(1)
				return
			}
		}
	}
	a.add(status).Add(1)
}

// add begins to count a status.
func (a *answers) add(status int) *atomic.Uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var codes []codeCount
	if known := a.codes.Load(); known != nil {
		codes = slices.Clone(*known)
	}
	for _, c := range codes {
		if c.status == status {
			return c.count
		}
	}
	count := new(atomic.Uint64)
	codes = append(codes, codeCount{status, count})
	a.codes.Store(&codes)
	return count
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- requestsDesc
	to <- durationDesc
	to <- inFlightDesc
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	inFlight := int64(0)
	for i := range m.inFlight {
		inFlight += m.inFlight[i].Load()
	}
	to <- prometheus.MustNewConstMetric(inFlightDesc, prometheus.GaugeValue, float64(inFlight))
	m.mu.Lock()
	defer m.mu.Unlock()
	for route, c := range m.routes {
		c.collect(route, to)
	}
}

func (c *routeCounts) collect(route string, to chan<- prometheus.Metric) {
	var took [len(durations) + 1]uint64
	var nanoseconds uint64
	codes := map[int]uint64{}
	for i := range c.lanes {
		a := &c.lanes[i]
		for j := range a.took {
			took[j] += a.took[j].Load()
		}
		nanoseconds += a.nanoseconds.Load()
		if known := a.codes.Load(); known != nil {
			for _, c := range *known {
				codes[c.status] += c.count.Load()
			}
		}
	}
	count, buckets := uint64(0), map[float64]uint64{}
	for i, n := range took {
		if count += n; i < len(durations) {
			buckets[durations[i].Seconds()] = count
		}
	}
	to <- prometheus.MustNewConstHistogram(durationDesc, count, float64(nanoseconds)/1e9, buckets, route)
	for status, n := range codes {
		to <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), route, strconv.Itoa(status))
	}
}

// route is the label of the exchange in metrics and logs.
func (x *exchange) route() string {
	if x.rule == nil {
		return ""
	}
	return x.rule.Route
}

// forget drops the series of routes that the new table no longer has, so that
// they do not pile up for as long as the process lives.
func (m *metrics) forget(t *route.Table) {
	if edit := t.Edited(); edit != nil {
		m.forgetEdited(edit)
		return
	}
	current := t.Routes()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.routes {
		if name != "" && !current[name] {
			delete(m.routes, name)
		}
	}
	m.rules.Clear()
}

func (m *metrics) forgetEdited(edit *route.Edited) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range edit.Dropped {
		m.rules.Delete(r)
		if !edit.Added[r.Route] {
			delete(m.routes, r.Route)
		}
	}
}
