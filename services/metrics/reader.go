package metrics

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// resolution is how often nodes are read while somebody asks.
	resolution = 10 * time.Second
	// interest is how long after a question they are read on.
	interest = 2 * time.Minute
	// shortest is the shortest time between two readings that a rate is made of.
	shortest = time.Second
	// nodeTimeout is how long a node may take to answer.
	nodeTimeout = 5 * time.Second
)

// point is one reading of something that uses CPU and memory.
type point struct {
	at      time.Time
	cpu     float64 // core seconds since start
	memory  float64 // bytes of the working set
	started time.Time
}

// usage is what something uses.
type usage struct {
	at     time.Time
	window time.Duration
	cores  float64
	bytes  float64
}

type container struct {
	pod  types.NamespacedName
	name string
}

// reading is what all nodes said at one time.
type reading struct {
	nodes      map[string]point
	containers map[container]point
}

// reader reads nodes while somebody asks.
type reader struct {
	client kubernetes.Interface
	now    func() time.Time

	mu              sync.Mutex // guards following
	earlier, latest *reading
	askedAt         time.Time
	running         bool
}

// get returns the two latest readings. The first one who asks after a pause waits for them.
func (r *reader) get(ctx context.Context) (before, after *reading, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.askedAt = r.now()
	if r.running {
		return r.earlier, r.latest, nil
	}
	for range 2 {
		if err := r.take(ctx); err != nil {
			return nil, nil, err
		}
		if r.earlier != nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(shortest):
		}
	}
	r.running = true
	go r.keep()
	return r.earlier, r.latest, nil
}

// keep reads again and again until nobody has asked for a while.
func (r *reader) keep() {
	tick := time.NewTicker(resolution)
	defer tick.Stop()
	for range tick.C {
		fresh, err := r.read(context.Background())
		r.mu.Lock()
		if err == nil {
			r.earlier, r.latest = r.latest, fresh
		}
		if r.now().Sub(r.askedAt) > interest {
			r.running, r.earlier, r.latest = false, nil, nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
}

// take takes a reading. The caller holds mu.
func (r *reader) take(ctx context.Context) error {
	fresh, err := r.read(ctx)
	if err != nil {
		return err
	}
	r.earlier, r.latest = r.latest, fresh
	return nil
}

// read asks all nodes. One that does not answer is missing in the result.
func (r *reader) read(ctx context.Context) (*reading, error) {
	nodes, err := r.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	all := &reading{nodes: map[string]point{}, containers: map[container]point{}}
	var mu sync.Mutex // guards all
	var asking sync.WaitGroup
	for _, node := range nodes.Items {
		asking.Go(func() {
			text, err := r.ask(ctx, &node)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(node.Name, text, r.now())
		})
	}
	asking.Wait()
	return all, nil
}

func (r *reader) ask(ctx context.Context, node *corev1.Node) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	return r.client.CoreV1().RESTClient().Get().Resource("nodes").Name(node.Name).SubResource("proxy").
		Suffix("metrics", "resource").SetHeader("Accept", "text/plain").DoRaw(ctx)
}

// add takes in what a node said.
func (all *reading) add(node string, text []byte, now time.Time) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil && len(families) == 0 {
		return
	}
	for name, set := range map[string]func(*point, float64){
		"node_cpu_usage_seconds_total":  func(p *point, v float64) { p.cpu = v },
		"node_memory_working_set_bytes": func(p *point, v float64) { p.memory = v },
	} {
		for _, m := range families[name].GetMetric() {
			p := all.nodes[node]
			p.at = timeOf(m, now)
			set(&p, value(m))
			all.nodes[node] = p
		}
	}
	for name, set := range map[string]func(*point, float64, time.Time){
		"container_cpu_usage_seconds_total":  func(p *point, v float64, at time.Time) { p.cpu, p.at = v, at },
		"container_memory_working_set_bytes": func(p *point, v float64, _ time.Time) { p.memory = v },
		"container_start_time_seconds": func(p *point, v float64, _ time.Time) {
			p.started = time.Unix(0, int64(v*1e9))
		},
	} {
		for _, m := range families[name].GetMetric() {
			id := containerOf(m)
			p := all.containers[id]
			set(&p, value(m), timeOf(m, now))
			all.containers[id] = p
		}
	}
}

func value(m *dto.Metric) float64 {
	if m.Counter != nil {
		return m.Counter.GetValue()
	}
	if m.Gauge != nil {
		return m.Gauge.GetValue()
	}
	return m.Untyped.GetValue()
}

func timeOf(m *dto.Metric, now time.Time) time.Time {
	if m.TimestampMs != nil {
		return time.UnixMilli(*m.TimestampMs)
	}
	return now
}

func containerOf(m *dto.Metric) (c container) {
	for _, l := range m.Label {
		switch l.GetName() {
		case "namespace":
			c.pod.Namespace = l.GetValue()
		case "pod":
			c.pod.Name = l.GetValue()
		case "container":
			c.name = l.GetValue()
		}
	}
	return c
}

// between is what was used between two readings, or since the start when there was none before;
// false when nothing can be said yet.
func between(before, after point, known bool) (usage, bool) {
	if !known || after.cpu < before.cpu || after.started.After(before.at) {
		if after.started.IsZero() || after.at.Sub(after.started) < shortest/2 {
			return usage{}, false
		}
		before = point{at: after.started}
	}
	window := after.at.Sub(before.at)
	if window <= 0 {
		return usage{}, false
	}
	return usage{at: after.at, window: window, cores: (after.cpu - before.cpu) / window.Seconds(), bytes: after.memory}, true
}
