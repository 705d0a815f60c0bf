package node

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"github.com/gantryhq/gantry/engine/node/probe"
)

// probeKey names a running probe.
type probeKey struct {
	container, id string
	kind          probe.Kind
}

// manageProbes starts the probes that should run and stops the others: startup
// first, then liveness and readiness; of a pod that is to stop only readiness.
// The caller holds the lock.
func (w *worker) manageProbes() {
	stopping := outcome(w.pod, &w.v).stop
	want := map[probeKey]*v1.Probe{}
	for c := range containersOf(w.pod) {
		cv := w.v.Containers[c.Name]
		if !cv.running() || cv.Kill != "" || !w.v.Sandbox.Ready && len(w.v.Sandbox.IPs) == 0 {
			continue
		}
		key := probeKey{container: c.Name, id: cv.Last.ID}
		add := func(kind probe.Kind, spec *v1.Probe) {
			if key.kind = kind; spec != nil {
				want[key] = spec
			}
		}
		switch {
		case !cv.StartupPassed:
			if !stopping {
				add(probe.Startup, c.StartupProbe)
			}
		default:
			if !stopping {
				add(probe.Liveness, c.LivenessProbe)
			}
			add(probe.Readiness, c.ReadinessProbe)
		}
	}
	w.stopProbes(func(k probeKey) bool { return want[k] == nil })
	for key, spec := range want {
		if w.probes[key] == nil {
			w.startProbe(key, spec)
		}
	}
}

func (w *worker) stopProbes(which func(probeKey) bool) {
	for key, cancel := range w.probes {
		if which(key) {
			cancel()
			delete(w.probes, key)
		}
	}
}

func (w *worker) startProbe(key probeKey, spec *v1.Probe) {
	c, cv, pod := w.container(key.container), w.v.Containers[key.container], w.pod
	ctx, cancel := context.WithCancel(w.n.ctx)
	w.probes[key] = cancel
	ip := "" // of a pod without an address only commands can be probed
	if ips := w.v.Sandbox.IPs; len(ips) > 0 {
		ip = ips[0]
	}
	p := &probe.Probe{
		Kind:      key.kind,
		Spec:      spec,
		StartedAt: cv.Last.StartedAt,
		Passing:   key.kind == probe.Liveness || key.kind == probe.Readiness && cv.Ready,
		Try: w.n.prober.Try(spec, c, ip, func(ctx context.Context, command []string) (int, string, error) {
			return w.n.execOutput(ctx, key.id, command)
		}),
		Report: func(u probe.Update) { w.probed(pod, key, u, graceOf(pod, spec)) },
	}
	if key.kind != probe.Startup && c.StartupProbe != nil {
		p.StartedAt = time.Now() // the delay counts from the end of the startup
	}
	go p.Run(ctx)
}

func graceOf(pod *v1.Pod, spec *v1.Probe) time.Duration {
	if s := spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return specGrace(pod)
}

// probed takes a probe's news.
func (w *worker) probed(pod *v1.Pod, key probeKey, u probe.Update, grace time.Duration) {
	w.n.probes.add(pod, key.container, key.kind, u.Failed)
	w.tellProbe(pod, key, u)
	if !u.Changed {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	cv := w.v.Containers[key.container]
	if w.probes[key] == nil || !cv.running() || cv.Last.ID != key.id {
		return // about a run that is over
	}
	switch {
	case key.kind == probe.Readiness:
		cv.Ready = u.Passing
	case u.Passing:
		if key.kind == probe.Startup {
			cv.StartupPassed = true
		}
	default:
		what := "liveness"
		if key.kind == probe.Startup {
			what = "startup"
		}
		cv.Kill = fmt.Sprintf("Container %s failed %s probe, will be restarted", key.container, what)
		cv.KillGrace = grace
	}
	w.wake()
}

func (w *worker) tellProbe(pod *v1.Pod, key probeKey, u probe.Update) {
	switch {
	case u.Failed && u.Result.Err != nil:
		w.n.event(pod, key.container, v1.EventTypeWarning, events.ContainerUnhealthy, "%s probe errored: %v", key.kind, u.Result.Err)
	case u.Failed:
		w.n.event(pod, key.container, v1.EventTypeWarning, events.ContainerUnhealthy, "%s probe failed: %s", key.kind, u.Result.Output)
	case u.Result.Warned:
		w.n.event(pod, key.container, v1.EventTypeWarning, events.ContainerProbeWarning, "%s probe warning: %s", key.kind, u.Result.Output)
	}
}
