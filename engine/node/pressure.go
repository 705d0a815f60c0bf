package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// memoryReserve is what the machine needs for itself: below it there is memory
// pressure, and the scheduler cannot give it to pods.
const memoryReserve = 100 << 20

// pressure is which resources of the machine are short.
type pressure struct{ memory, disk, pids bool }

// taints keep further pods away, except those that tolerate what is short.
func (p pressure) taints() []v1.Taint {
	var list []v1.Taint
	add := func(short bool, key string) {
		if short {
			list = append(list, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
		}
	}
	add(p.memory, v1.TaintNodeMemoryPressure)
	add(p.disk, v1.TaintNodeDiskPressure)
	add(p.pids, v1.TaintNodePIDPressure)
	return list
}

// withPressureTaints replaces the taints that pressure puts on a node.
func withPressureTaints(have []v1.Taint, p pressure) []v1.Taint {
	all := pressure{memory: true, disk: true, pids: true}.taints()
	var list []v1.Taint
	for _, t := range have {
		if !slices.ContainsFunc(all, func(o v1.Taint) bool { return o.MatchTaint(&t) }) {
			list = append(list, t)
		}
	}
	return append(list, p.taints()...)
}

// watchPressure reads the machine's free resources from time to time, collects
// images when the disk fills, and evicts pods when that was not enough.
func (n *Node) watchPressure(ctx context.Context) {
	t := time.NewTicker(pressureEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n.relieve(ctx)
	}
}

func (n *Node) relieve(ctx context.Context) {
	now := pressure{memory: memoryShort(), pids: pidsShort()}
	d, err := diskOf(n.cfg.DataDir)
	if err != nil {
		n.log.Warn("read disk state", "error", err)
		return
	}
	least := n.cfg.DiskFree.of(d.Total)
	if d.Free < 2*least {
		n.collectImages(ctx, int64(2*least-d.Free))
		if d, err = diskOf(n.cfg.DataDir); err != nil {
			return
		}
	}
	now.disk = d.Free < least || d.Inodes > 0 && d.InodesFree < d.Inodes/20
	n.mu.Lock()
	changed := n.pressure != now
	n.pressure = now
	n.mu.Unlock()
	if changed {
		n.imagesChanged()
	}
	n.enforceSizeLimits()
	if now.disk {
		n.evictForDisk(d)
	}
}

func (n *Node) collectImages(ctx context.Context, want int64) {
	freed, err := n.cfg.Images.GC(ctx, n.imagesInUse(), image.UntilFreed(want))
	if err != nil && ctx.Err() == nil {
		n.log.Warn("collect unused images", "error", err)
	}
	if len(freed.Images) > 0 {
		n.log.Info("removed unused images", "images", freed.Images, "bytes", freed.Bytes)
		n.imagesChanged()
	}
}

// imagesInUse spares the images of all pods that are here, also while their
// containers are not running.
func (n *Node) imagesInUse() func(digest.Digest) bool {
	used := map[string]bool{}
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		for _, img := range w.images {
			used[img.Digest] = true
		}
		for _, cv := range w.v.Containers {
			if cv.Last != nil && cv.Last.ImageID != "" {
				_, d, _ := strings.Cut(cv.Last.ImageID, "@")
				used[d] = true
			}
		}
		w.mu.Unlock()
	}
	return func(d digest.Digest) bool { return used[d.String()] }
}

// enforceSizeLimits evicts pods whose emptyDir on disk outgrew its limit.
func (n *Node) enforceSizeLimits() {
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		pod := w.pod
		w.mu.Unlock()
		name, limit := n.volumes.TooLarge(pod)
		if name == "" {
			continue
		}
		msg := fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", name, limit)
		if w.evict(verdict{Reason: "Evicted", Message: msg, Evicted: true}) {
			n.event(pod, "", v1.EventTypeWarning, "Evicted", "%s", msg)
		}
	}
}

// worthEvicting is how much a pod must have written for its end to free anything, in bytes.
// When the disk is full of other things, pods that wrote less run on.
const worthEvicting = 1 << 20

// evictForDisk evicts one pod, the one that upstream's ranking puts first; the
// next look decides whether another must follow.
func (n *Node) evictForDisk(d disk) {
	var candidates []*victim
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		pod, stopping, over := w.pod, outcome(w.pod, &w.v).stop, w.refused || w.v.TornDown
		var roots []string
		for _, cv := range w.v.Containers {
			if cv.Last != nil {
				roots = append(roots, n.cfg.Images.Written(cv.Last.ID))
			}
		}
		w.mu.Unlock()
		if stopping && !over {
			return // what stops now frees space first
		}
		if stopping || critical(pod) {
			continue
		}
		usage := n.volumes.DiskUsage(pod) + logBytes(n.paths.podLogs(pod))
		for _, root := range roots {
			usage += volume.Occupied(root)
		}
		if usage >= worthEvicting {
			candidates = append(candidates, newVictim(w, pod, usage))
		}
	}
	slices.SortStableFunc(candidates, compareVictims)
	for _, c := range candidates {
		msg := fmt.Sprintf("The node was low on resource: ephemeral-storage. Threshold quantity: %d, available: %d. ", n.cfg.DiskFree.of(d.Total), d.Free)
		if c.w.evict(verdict{Reason: "Evicted", Message: msg, Evicted: true}) {
			n.event(c.pod, "", v1.EventTypeWarning, "Evicted", "%s", msg)
			return
		}
	}
}

// victim is a candidate for eviction.
type victim struct {
	w        *worker
	pod      *v1.Pod
	usage    int64
	exceeds  bool // uses more than it requested
	priority int32
}

func newVictim(w *worker, pod *v1.Pod, usage int64) *victim {
	v := &victim{w: w, pod: pod, usage: usage}
	var requested int64
	for i := range pod.Spec.Containers {
		requested += pod.Spec.Containers[i].Resources.Requests.StorageEphemeral().Value()
	}
	v.exceeds = usage > requested
	if pod.Spec.Priority != nil {
		v.priority = *pod.Spec.Priority
	}
	return v
}

// compareVictims orders as the kubelet does: who exceeds its request, then who
// has the lower priority, then who uses most.
func compareVictims(a, b *victim) int {
	switch {
	case a.exceeds != b.exceeds:
		if a.exceeds {
			return -1
		}
		return 1
	case a.priority != b.priority:
		return int(a.priority) - int(b.priority)
	case a.usage != b.usage:
		if a.usage > b.usage {
			return -1
		}
		return 1
	}
	return qosRank(a.pod) - qosRank(b.pod)
}

func qosRank(pod *v1.Pod) int {
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSBestEffort:
		return 0
	case v1.PodQOSBurstable:
		return 1
	}
	return 2
}

// critical pods are never evicted.
func critical(pod *v1.Pod) bool {
	const systemCritical = 2_000_000_000
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

func memoryShort() bool {
	m, err := memInfo()
	return err == nil && m["MemAvailable"] < memoryReserve
}

func pidsShort() bool {
	limit, err := readLine("/proc/sys/kernel/pid_max")
	if err != nil {
		return false
	}
	most, err := strconv.Atoi(limit)
	if err != nil {
		return false
	}
	load, err := readLine("/proc/loadavg") // "... running/total last"
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(load, "/")
	total, _, _ := strings.Cut(rest, " ")
	threads, err := strconv.Atoi(total)
	return err == nil && threads > most-most/10
}

func logBytes(dir string) int64 {
	var sum int64
	containers, _ := os.ReadDir(dir)
	for _, c := range containers {
		files, _ := os.ReadDir(dir + "/" + c.Name())
		for _, f := range files {
			if info, err := f.Info(); err == nil {
				sum += info.Size()
			}
		}
	}
	return sum
}
