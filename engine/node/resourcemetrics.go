package node

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// clockTick is the unit of times in /proc/stat (USER_HZ), which Linux fixes for programs.
const clockTick = time.Second / 100

// serveResourceMetrics tells what the node, pods and containers use, in the format of the kubelet's
// /metrics/resource, which metrics servers read. It costs a few reads of control group files for
// each container, and nothing while nobody asks.
func (n *Node) serveResourceMetrics(w http.ResponseWriter, r *http.Request) {
	var pods []stats.PodStats
	for _, wk := range n.allWorkers() {
		if ps := wk.stats(r.Context()); len(ps.Containers) > 0 {
			pods = append(pods, ps)
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(resourceMetrics(pods)) // the client is gone when this fails
}

func resourceMetrics(pods []stats.PodStats) []byte {
	b := &exposition{}
	now := time.Now()
	var problem float64
	b.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
	if used, err := nodeCPU(); err == nil {
		b.sample("node_cpu_usage_seconds_total", "", used.Seconds(), now)
	} else {
		problem = 1
	}
	b.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	if m, err := memInfo(); err == nil {
		b.sample("node_memory_working_set_bytes", "", float64(m["MemTotal"]-m["MemAvailable"]), now)
	} else {
		problem = 1
	}
	b.containers("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", pods,
		func(c *stats.ContainerStats) (float64, time.Time) {
			return float64(c.StartTime.Unix()) + float64(c.StartTime.Nanosecond())/1e9, c.StartTime.Time
		})
	b.containers("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds", pods,
		func(c *stats.ContainerStats) (float64, time.Time) {
			return float64(*c.CPU.UsageCoreNanoSeconds) / 1e9, c.CPU.Time.Time
		})
	b.containers("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", pods,
		func(c *stats.ContainerStats) (float64, time.Time) {
			return float64(*c.Memory.WorkingSetBytes), c.Memory.Time.Time
		})
	b.family("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	for i := range pods {
		p := &pods[i]
		b.sample("pod_cpu_usage_seconds_total", podLabels(p), float64(*p.CPU.UsageCoreNanoSeconds)/1e9, p.CPU.Time.Time)
	}
	b.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	for i := range pods {
		p := &pods[i]
		b.sample("pod_memory_working_set_bytes", podLabels(p), float64(*p.Memory.WorkingSetBytes), p.Memory.Time.Time)
	}
	b.family("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
	b.sample("resource_scrape_error", "", problem, time.Time{})
	return b.Bytes()
}

// exposition is a document in Prometheus' text format.
type exposition struct{ bytes.Buffer }

func (b *exposition) family(name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s [STABLE] %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (b *exposition) sample(name, labels string, value float64, at time.Time) {
	b.WriteString(name)
	if labels != "" {
		b.WriteString("{" + labels + "}")
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	if !at.IsZero() {
		b.WriteByte(' ')
		b.WriteString(strconv.FormatInt(at.UnixMilli(), 10))
	}
	b.WriteByte('\n')
}

func (b *exposition) containers(name, kind, help string, pods []stats.PodStats, value func(*stats.ContainerStats) (float64, time.Time)) {
	b.family(name, kind, help)
	for i := range pods {
		for j := range pods[i].Containers {
			c := &pods[i].Containers[j]
			v, at := value(c)
			b.sample(name, fmt.Sprintf("container=%q,%s", c.Name, podLabels(&pods[i])), v, at)
		}
	}
}

// podLabels needs no escaping: names of pods and namespaces are DNS names.
func podLabels(p *stats.PodStats) string {
	return fmt.Sprintf("namespace=%q,pod=%q", p.PodRef.Namespace, p.PodRef.Name)
}

// nodeCPU is the time that the machine's cores were busy since it started, together.
func nodeCPU() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("read CPU time: /proc/stat begins with %q", line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
