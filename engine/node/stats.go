package node

import (
	"context"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// serveSummary tells what pods and containers use, in the kubelet's format.
func (n *Node) serveSummary(w http.ResponseWriter, r *http.Request) {
	now := metav1.Now()
	s := stats.Summary{Node: stats.NodeStats{NodeName: n.cfg.NodeName, Memory: nodeMemory(now), Fs: n.nodeFS(now)}}
	for _, wk := range n.allWorkers() {
		s.Pods = append(s.Pods, wk.stats(r.Context()))
	}
	writeJSON(w, &s)
}

func nodeMemory(now metav1.Time) *stats.MemoryStats {
	m, err := memInfo()
	if err != nil {
		return nil
	}
	available, used := uint64(m["MemAvailable"]), uint64(m["MemTotal"]-m["MemFree"])
	working := uint64(m["MemTotal"] - m["MemAvailable"])
	return &stats.MemoryStats{Time: now, AvailableBytes: &available, UsageBytes: &used, WorkingSetBytes: &working}
}

func (n *Node) nodeFS(now metav1.Time) *stats.FsStats {
	d, err := diskOf(n.cfg.DataDir)
	if err != nil {
		return nil
	}
	used, inodesUsed := d.Total-d.Free, d.Inodes-d.InodesFree
	return &stats.FsStats{
		Time: now, CapacityBytes: &d.Total, AvailableBytes: &d.Free, UsedBytes: &used,
		Inodes: &d.Inodes, InodesFree: &d.InodesFree, InodesUsed: &inodesUsed,
	}
}

// stats reads the cgroups of the pod's running containers.
func (w *worker) stats(ctx context.Context) stats.PodStats {
	w.mu.Lock()
	ps := stats.PodStats{
		PodRef:    stats.PodReference{Name: w.pod.Name, Namespace: w.pod.Namespace, UID: string(w.uid)},
		StartTime: metav1.NewTime(w.v.FirstSeen),
	}
	if t := w.pod.Status.StartTime; t != nil {
		ps.StartTime = *t
	}
	running := map[string]*instance{}
	for name, cv := range w.v.Containers {
		if cv.running() {
			running[name] = cv.Last
		}
	}
	w.mu.Unlock()
	var cpu, memory, working uint64
	at := time.Now()
	for name, i := range running {
		st, err := w.n.cfg.Driver.Stats(ctx, i.ID)
		if err != nil {
			continue // it has ended meanwhile
		}
		when := metav1.NewTime(st.At)
		ps.Containers = append(ps.Containers, stats.ContainerStats{
			Name: name, StartTime: metav1.NewTime(i.StartedAt),
			CPU:    &stats.CPUStats{Time: when, UsageCoreNanoSeconds: &st.CPUNanos},
			Memory: &stats.MemoryStats{Time: when, UsageBytes: &st.MemoryBytes, WorkingSetBytes: &st.WorkingSetBytes},
		})
		cpu, memory, working = cpu+st.CPUNanos, memory+st.MemoryBytes, working+st.WorkingSetBytes
		at = st.At
	}
	when := metav1.NewTime(at)
	ps.CPU = &stats.CPUStats{Time: when, UsageCoreNanoSeconds: &cpu}
	ps.Memory = &stats.MemoryStats{Time: when, UsageBytes: &memory, WorkingSetBytes: &working}
	return ps
}
