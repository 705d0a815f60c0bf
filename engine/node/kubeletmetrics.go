package node

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/node/probe"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// serveKubeletMetrics tells of claimed volumes and of probes, under the names and labels of the kubelet's
// /metrics and /metrics/probes.
func (n *Node) serveKubeletMetrics(w http.ResponseWriter, _ *http.Request) {
	b := &exposition{}
	b.ofClaims(n.claims())
	n.probes.write(b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // the client is gone when this fails
}

// usedClaim is a claimed volume with what is in it.
type usedClaim struct {
	namespace, name string
	usage           volume.Usage
}

// claims are the claimed volumes of the pods that are here.
func (n *Node) claims() []usedClaim {
	paths := map[[2]string]string{}
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		for i := range w.pod.Spec.Volumes {
			v := &w.pod.Spec.Volumes[i]
			name := ""
			if v.PersistentVolumeClaim != nil {
				name = v.PersistentVolumeClaim.ClaimName
			} else if v.Ephemeral != nil {
				name = w.pod.Name + "-" + v.Name
			}
			if at, has := w.volumes[v.Name]; has && name != "" {
				paths[[2]string{w.pod.Namespace, name}] = at.Path
			}
		}
		w.mu.Unlock()
	}
	n.measured.Keep(slices.Collect(maps.Values(paths)))
	list := make([]usedClaim, 0, len(paths))
	for claim, path := range paths {
		list = append(list, usedClaim{claim[0], claim[1], n.measured.Of(path)})
	}
	slices.SortFunc(list, func(a, b usedClaim) int {
		return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name)
	})
	return list
}

func (b *exposition) ofClaims(list []usedClaim) {
	for _, f := range []struct {
		name string
		of   func(u *volume.Usage) uint64
	}{
		{"capacity_bytes", func(u *volume.Usage) uint64 { return u.Capacity }},
		{"available_bytes", func(u *volume.Usage) uint64 { return u.Available }},
		{"used_bytes", func(u *volume.Usage) uint64 { return u.Used }},
		{"inodes", func(u *volume.Usage) uint64 { return u.Inodes }},
		{"inodes_free", func(u *volume.Usage) uint64 { return u.InodesFree }},
		{"inodes_used", func(u *volume.Usage) uint64 { return u.InodesUsed }},
	} {
		b.head("kubelet_volume_stats_"+f.name, "gauge")
		for i := range list {
			c := &list[i]
			if c.usage.At.IsZero() {
				continue // not measured yet
			}
			b.sample("kubelet_volume_stats_"+f.name, fmt.Sprintf("namespace=%q,persistentvolumeclaim=%q", c.namespace, c.name), float64(f.of(&c.usage)), time.Time{})
		}
	}
}

// probeCounts counts the results of probes that count. The zero value is ready.
type probeCounts struct {
	mu sync.Mutex
	of map[probeSeries]uint64
}

type probeSeries struct {
	namespace, pod, uid, container string
	kind                           probe.Kind
	failed                         bool
}

// add counts a result. A probe has both of its series from the first result on, so that rates see the first failure.
func (c *probeCounts) add(pod *v1.Pod, container string, kind probe.Kind, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[probeSeries]uint64{}
	}
	s := probeSeries{pod.Namespace, pod.Name, string(pod.UID), container, kind, failed}
	c.of[s]++
	s.failed = !failed
	c.of[s] += 0
}

// forget drops the series of a pod.
func (c *probeCounts) forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.of, func(s probeSeries, _ uint64) bool { return s.uid == uid })
}

func (c *probeCounts) write(b *exposition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.head("prober_probe_total", "counter")
	for s, count := range c.of {
		result := "successful"
		if s.failed {
			result = "failed"
		}
		b.sample("prober_probe_total", fmt.Sprintf("container=%q,namespace=%q,pod=%q,pod_uid=%q,probe_type=%q,result=%q",
			s.container, s.namespace, s.pod, s.uid, s.kind, result), float64(count), time.Time{})
	}
}
