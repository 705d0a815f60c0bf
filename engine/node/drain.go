package node

import (
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const (
	// spreadMax bounds how long a deleted pod may go on serving while the news that
	// it ends is still spreading.
	spreadMax = 200 * time.Millisecond
	// spreadMargin is for those who hear of it by themselves, like the gateway.
	spreadMargin = 10 * time.Millisecond
	// busyMax and busyMargin are for a pod to which processes of the host have
	// connections: those who use it are seen to leave. Where many wait for a processor,
	// they hear of it later.
	busyMax    = time.Second
	busyMargin = 50 * time.Millisecond
	// drainMax bounds how long requests that are under way then may take, as does
	// half of the grace period.
	drainMax = 10 * time.Second

	drainLook    = 5 * time.Millisecond // how often the connections are looked at, at first
	drainLookMax = 100 * time.Millisecond
)

// drain waits until nobody sends a deleted pod new requests, so that none meets a
// process that has been told to end: services have let go of it, and processes of
// the host, the gateway above all, have closed their connections, which they do
// when they have heard of it and no request is under way. Kubernetes does both at
// once, and loses requests that way; on one machine one can know. A pod that no
// service offers is not kept waiting, nor is one for longer than drainMax or half
// of its grace period.
func (w *worker) drain(begun time.Time, grace time.Duration, exit <-chan struct{}, hurry chan time.Duration) {
	ip, ok := w.drainedAddress()
	if !ok {
		return
	}
	gone, offered := w.n.cfg.Network.Withdrawn(ip)
	if !offered {
		return
	}
	end := begun.Add(min(drainMax, grace/2))
	used := w.clients(ip) > 0
	most, margin := spreadMax, spreadMargin
	if used {
		most, margin = busyMax, busyMargin*time.Duration(perProcessor())
	}
	until := func(t time.Time) time.Duration { return max(time.Until(t), 0) }
	spread := begun.Add(most)
	if end.Before(spread) {
		spread = end
	}
	if !w.pause(until(spread), gone, exit, hurry) {
		return
	}
	if left := until(spread); left > 0 && !w.pause(min(margin, left), nil, exit, hurry) {
		return
	}
	// Also where there was none at first: whoever had not heard yet may have come meanwhile.
	for look := drainLook; w.clients(ip) > 0; look = min(2*look, drainLookMax) {
		left := until(end)
		if left == 0 || !w.pause(min(look, left), nil, exit, hurry) {
			return
		}
	}
}

// perProcessor is how many tasks there are for each processor, at least 1.
func perProcessor() int {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 1
	}
	return runnableOf(string(text), runtime.NumCPU())
}

// runnableOf reads the fourth field of proc_loadavg(5): runnable tasks and all.
func runnableOf(loadavg string, processors int) int {
	fields := strings.Fields(loadavg)
	if len(fields) < 4 {
		return 1
	}
	runnable, _, _ := strings.Cut(fields[3], "/")
	n, _ := strconv.Atoi(runnable)
	return max(1, n/max(1, processors))
}

// drainedAddress is the pod's own address, if it has one.
func (w *worker) drainedAddress() (netip.Addr, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.v.Sandbox.IPs) == 0 {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(w.v.Sandbox.IPs[0])
	return ip, err == nil
}

// clients is how many connections from the host the pod has; a host's own address
// has others.
func (w *worker) clients(ip netip.Addr) int {
	w.mu.Lock()
	shared := w.pod.Spec.HostNetwork
	w.mu.Unlock()
	if shared {
		return 0
	}
	n, err := w.n.cfg.Network.Clients(ip)
	if err != nil {
		w.log.Warn("look for connections to an ending pod", "error", err)
	}
	return n
}

// pause waits for a time, or less if over is closed. It reports whether there is
// still something to wait for; not if the grace period was shortened.
func (w *worker) pause(d time.Duration, over, exit <-chan struct{}, hurry chan time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
	case <-exit:
		return false
	case shorter := <-hurry:
		select { // who awaits the end is to know as well
		case hurry <- shorter:
		default:
		}
		return false
	case <-w.n.ctx.Done():
		return false
	}
	return true
}
