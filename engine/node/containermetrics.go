package node

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// usedContainer is a running container with what it uses.
type usedContainer struct {
	namespace, pod, name, id, image string
	uid                             string
	started                         time.Time
	resources                       v1.ResourceRequirements
	stats                           runtime.Stats
	written                         volume.Usage // into its root directory
}

// usedNetwork is what came and went through one interface of a pod.
type usedNetwork struct {
	namespace, pod, uid, device string
	counts                      [16]uint64 // in the order of /proc/PID/net/dev
}

// serveContainerMetrics tells what containers use, under the names and labels of the kubelet's
// /metrics/cadvisor. It costs some reads of control group files for each container, and nothing
// while nobody asks.
func (n *Node) serveContainerMetrics(w http.ResponseWriter, r *http.Request) {
	pids := map[string]int{} // by container
	if states, err := n.cfg.Driver.List(r.Context()); err == nil {
		for _, st := range states {
			pids[st.ID] = st.PID
		}
	}
	var containers []usedContainer
	var networks []usedNetwork
	for _, wk := range n.allWorkers() {
		of := wk.used(r.Context())
		containers = append(containers, of...)
		if len(of) > 0 {
			networks = append(networks, wk.networks(of[0], pids[of[0].id])...)
		}
	}
	paths := make([]string, len(containers))
	for i := range containers {
		paths[i] = n.cfg.Images.Written(containers[i].id)
		containers[i].written = n.layers.Of(paths[i])
	}
	n.layers.Keep(paths)
	slices.SortFunc(containers, func(a, b usedContainer) int { return strings.Compare(a.id, b.id) })
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	b := &exposition{}
	b.ofContainers(containers)
	b.ofNetworks(networks)
	b.head("machine_cpu_cores", "gauge")
	b.sample("machine_cpu_cores", "", float64(n.host.CPUs), time.Time{})
	b.head("machine_memory_bytes", "gauge")
	b.sample("machine_memory_bytes", "", float64(n.host.MemoryBytes), time.Time{})
	b.ofTraffic(n.cfg.Network)
	_, _ = w.Write(b.Bytes()) // the client is gone when this fails
}

// used reads the control groups of the pod's running containers.
func (w *worker) used(ctx context.Context) []usedContainer {
	w.mu.Lock()
	var list []usedContainer
	for name, cv := range w.v.Containers {
		if cv.running() {
			list = append(list, usedContainer{
				namespace: w.pod.Namespace, pod: w.pod.Name, uid: string(w.uid), name: name, id: cv.Last.ID,
				image: cv.Image.Ref, started: cv.Last.StartedAt, resources: cv.Last.Resources,
			})
		}
	}
	w.mu.Unlock()
	read := list[:0]
	for _, c := range list {
		var err error
		if c.stats, err = w.n.cfg.Driver.Stats(ctx, c.id); err == nil { // else it has ended meanwhile
			read = append(read, c)
		}
	}
	return read
}

// networks reads the interfaces of the pod that a running container belongs to, by its first process. Pods in the host's
// network have none of their own.
func (w *worker) networks(c usedContainer, pid int) (list []usedNetwork) {
	w.mu.Lock()
	own := !w.pod.Spec.HostNetwork
	w.mu.Unlock()
	if !own || pid == 0 {
		return nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil // it has ended meanwhile
	}
	for line := range strings.Lines(string(text)) {
		device, numbers, found := strings.Cut(line, ":")
		fields := strings.Fields(numbers)
		of := usedNetwork{namespace: c.namespace, pod: c.pod, uid: c.uid, device: strings.TrimSpace(device)}
		if !found || len(fields) < len(of.counts) || of.device == "lo" {
			continue
		}
		for i := range of.counts {
			of.counts[i], _ = strconv.ParseUint(fields[i], 10, 64)
		}
		list = append(list, of)
	}
	return list
}

// containerFigures are the metrics of each container. One that answers false has no such figure.
var containerFigures = []struct {
	name, kind, labels string
	of                 func(*usedContainer) (float64, bool)
}{
	{"container_cpu_usage_seconds_total", "counter", `cpu="total"`, nanos(func(s *runtime.Stats) uint64 { return s.CPUNanos })},
	{"container_cpu_user_seconds_total", "counter", "", nanos(func(s *runtime.Stats) uint64 { return s.UserNanos })},
	{"container_cpu_system_seconds_total", "counter", "", nanos(func(s *runtime.Stats) uint64 { return s.SystemNanos })},
	{"container_cpu_cfs_periods_total", "counter", "", limited(func(s *runtime.Stats) float64 { return float64(s.Periods) })},
	{"container_cpu_cfs_throttled_periods_total", "counter", "", limited(func(s *runtime.Stats) float64 { return float64(s.ThrottledPeriods) })},
	{"container_cpu_cfs_throttled_seconds_total", "counter", "", limited(func(s *runtime.Stats) float64 { return float64(s.ThrottledNanos) / 1e9 })},
	{"container_memory_usage_bytes", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.MemoryBytes })},
	{"container_memory_working_set_bytes", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.WorkingSetBytes })},
	{"container_memory_rss", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.RSSBytes })},
	{"container_memory_cache", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.CacheBytes })},
	{"container_memory_swap", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.SwapBytes })},
	{"container_memory_failures_total", "counter", `failure_type="pgfault",scope="container"`, plain(func(s *runtime.Stats) uint64 { return s.PageFaults })},
	{"container_memory_failures_total", "counter", `failure_type="pgmajfault",scope="container"`, plain(func(s *runtime.Stats) uint64 { return s.MajorPageFaults })},
	{"container_oom_events_total", "counter", "", plain(func(s *runtime.Stats) uint64 { return s.OOMKills })},
	{"container_processes", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.Processes })},
	{"container_threads", "gauge", "", plain(func(s *runtime.Stats) uint64 { return s.Pids })},
	{"container_fs_usage_bytes", "gauge", onRoot, written(func(u *volume.Usage) uint64 { return u.Used })},
	{"container_fs_limit_bytes", "gauge", onRoot, written(func(u *volume.Usage) uint64 { return u.Capacity })},
	{"container_fs_inodes_total", "gauge", onRoot, written(func(u *volume.Usage) uint64 { return u.Inodes })},
	{"container_fs_inodes_free", "gauge", onRoot, written(func(u *volume.Usage) uint64 { return u.InodesFree })},
	{"container_fs_reads_bytes_total", "counter", "", happened(func(s *runtime.Stats) uint64 { return s.ReadBytes })},
	{"container_fs_writes_bytes_total", "counter", "", happened(func(s *runtime.Stats) uint64 { return s.WrittenBytes })},
	{"container_fs_reads_total", "counter", "", happened(func(s *runtime.Stats) uint64 { return s.Reads })},
	{"container_fs_writes_total", "counter", "", happened(func(s *runtime.Stats) uint64 { return s.Writes })},
	{"container_start_time_seconds", "gauge", "", func(c *usedContainer) (float64, bool) { return float64(c.started.UnixMilli()) / 1e3, true }},
	{"container_last_seen", "gauge", "", func(c *usedContainer) (float64, bool) { return float64(c.stats.At.Unix()), true }},
	{"container_spec_memory_limit_bytes", "gauge", "", func(c *usedContainer) (float64, bool) {
		return c.resources.Limits.Memory().AsApproximateFloat64(), true
	}},
	{"container_spec_cpu_period", "gauge", "", func(*usedContainer) (float64, bool) { return cpuPeriod, true }},
	{"container_spec_cpu_quota", "gauge", "", func(c *usedContainer) (float64, bool) {
		limit := c.resources.Limits.Cpu().AsApproximateFloat64()
		return limit * cpuPeriod, limit > 0
	}},
	{"container_spec_cpu_shares", "gauge", "", func(c *usedContainer) (float64, bool) {
		return max(2, c.resources.Requests.Cpu().AsApproximateFloat64()*1024), true
	}},
}

// onRoot is where the figures of a container's own files belong.
const onRoot = `device="/"`

// written is a figure of the files that a container wrote into its root directory, once they were measured.
func written(of func(*volume.Usage) uint64) func(*usedContainer) (float64, bool) {
	return func(c *usedContainer) (float64, bool) { return float64(of(&c.written)), !c.written.At.IsZero() }
}

func plain(of func(*runtime.Stats) uint64) func(*usedContainer) (float64, bool) {
	return func(c *usedContainer) (float64, bool) { return float64(of(&c.stats)), true }
}

// happened is a figure that there is none of until something happens: hosts with cgroup v1 do not tell.
func happened(of func(*runtime.Stats) uint64) func(*usedContainer) (float64, bool) {
	return func(c *usedContainer) (float64, bool) { return float64(of(&c.stats)), of(&c.stats) > 0 }
}

func nanos(of func(*runtime.Stats) uint64) func(*usedContainer) (float64, bool) {
	return func(c *usedContainer) (float64, bool) { return float64(of(&c.stats)) / 1e9, true }
}

// limited is a figure that only containers with a limit on processor time have.
func limited(of func(*runtime.Stats) float64) func(*usedContainer) (float64, bool) {
	return func(c *usedContainer) (float64, bool) { return of(&c.stats), !c.resources.Limits.Cpu().IsZero() }
}

// labels of a container; only the image may need escaping, and Go's escapes of what image names may
// be made of are Prometheus's.
func (c *usedContainer) labels() string {
	return fmt.Sprintf("container=%q,id=%q,image=%q,name=%q,namespace=%q,pod=%q", c.name, "/kubepods/pod"+c.uid+"/"+c.id, c.image, c.id, c.namespace, c.pod)
}

func (b *exposition) head(name, kind string) { fmt.Fprintf(b, "# TYPE %s %s\n", name, kind) }

func (b *exposition) ofContainers(list []usedContainer) {
	labels := make([]string, len(list))
	for i := range list {
		labels[i] = list[i].labels()
	}
	last := ""
	for _, f := range containerFigures {
		if f.name != last {
			b.head(f.name, f.kind)
			last = f.name
		}
		own := f.labels
		if own != "" {
			own += ","
		}
		for i := range list {
			if v, has := f.of(&list[i]); has {
				b.sample(f.name, own+labels[i], v, time.Time{})
			}
		}
	}
}

// networkFigures are the metrics of each interface, by their place in /proc/PID/net/dev.
var networkFigures = []struct {
	name  string
	place int
}{
	{"receive_bytes", 0}, {"receive_packets", 1}, {"receive_errors", 2}, {"receive_packets_dropped", 3},
	{"transmit_bytes", 8}, {"transmit_packets", 9}, {"transmit_errors", 10}, {"transmit_packets_dropped", 11},
}

func (b *exposition) ofNetworks(list []usedNetwork) {
	for _, f := range networkFigures {
		name := "container_network_" + f.name + "_total"
		b.head(name, "counter")
		for i := range list {
			of := &list[i]
			b.sample(name, fmt.Sprintf("id=%q,interface=%q,namespace=%q,pod=%q", "/kubepods/pod"+of.uid, of.device, of.namespace, of.pod), float64(of.counts[f.place]), time.Time{})
		}
	}
}
