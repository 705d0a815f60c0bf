package node

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// worker brings one pod to what its specification says. Everything that happens
// is recorded in the view and wakes the worker, which plans the next steps.
type worker struct {
	n       *Node
	uid     types.UID
	log     *slog.Logger
	wakeup  chan struct{} // capacity 1
	ops     sync.WaitGroup
	refused bool // not admitted: it never runs

	mu  sync.Mutex // guards following
	pod *v1.Pod    // latest known; never modified
	v   view

	sandbox   *sandbox // nil until ensured
	handler   string   // of the pod's RuntimeClass
	volumes   map[string]volume.Volume
	refreshAt time.Time               // projected volumes must be written anew then
	images    map[string]*image.Image // by container
	owned     map[string]bool         // container ids that were started or found
	found     []runtime.State         // what a predecessor left, until run has told of it
	exits     map[string]chan struct{}
	kills     map[string]chan time.Duration // by container: shorter grace for a running kill
	probes    map[probeKey]context.CancelFunc
	publish   attempt
	told      told
	teardown  attempt

	runCtx  context.Context // ends when the pod must stop
	endRuns context.CancelFunc
}

// newWorker takes over a pod with the containers that the driver has of it. The
// caller holds the node's lock.
func newWorker(n *Node, pod *v1.Pod, found []runtime.State) *worker {
	w := &worker{
		n:      n,
		uid:    pod.UID,
		log:    n.log.With("pod", pod.Namespace+"/"+pod.Name),
		wakeup: make(chan struct{}, 1),
		pod:    pod,
		images: map[string]*image.Image{},
		owned:  map[string]bool{},
		exits:  map[string]chan struct{}{},
		kills:  map[string]chan time.Duration{},
		probes: map[probeKey]context.CancelFunc{},
		v: view{
			FirstSeen:  time.Now(),
			Containers: map[string]*containerView{},
			Busy:       map[string]bool{},
			Verdict:    n.admit(pod),
		},
	}
	w.refused = w.v.Verdict != nil
	if pod.DeletionTimestamp != nil {
		w.v.DeletionSeen = w.v.FirstSeen
	}
	w.runCtx, w.endRuns = context.WithCancel(n.ctx)
	if s := loadSandbox(n.paths.sandbox(pod.UID), n.host.BootID); s != nil {
		w.v.Sandbox.ID, w.v.Sandbox.IPs = s.ID, s.IPs
	} else if len(found) == 0 && podutil.IsPodTerminal(pod) && !n.paths.hasPod(pod.UID) {
		w.v.TornDown = true
	}
	w.ensureViews()
	w.adopt(found)
	w.found = found
	return w
}

// ensureViews makes a view for every container of the specification.
func (w *worker) ensureViews() {
	for c := range containersOf(w.pod) {
		cv := w.v.Containers[c.Name]
		if cv == nil {
			cv = &containerView{}
			w.v.Containers[c.Name] = cv
		}
		if cv.Image.Ref != c.Image {
			cv.Image = imageView{Ref: c.Image}
		}
	}
}

// adopt reconstructs runs: from the driver, else from the pod's status.
func (w *worker) adopt(found []runtime.State) {
	slices.SortFunc(found, func(a, b runtime.State) int { return attemptOf(a) - attemptOf(b) })
	for _, st := range found {
		w.owned[st.ID] = true
		cv := w.v.Containers[st.Labels[labelContainer]]
		if cv == nil {
			continue
		}
		cv.Previous, cv.Last = cv.Last, w.instanceOf(st)
		if c := w.container(st.Labels[labelContainer]); c != nil {
			cv.Last.Resources = c.Resources // until the status says otherwise
		}
	}
	for c := range containersOf(w.pod) {
		cv := w.v.Containers[c.Name]
		if old, ok := statusOf(w.pod, c.Name); ok {
			w.adoptStatus(c, cv, &old)
		}
		if !cv.running() {
			continue
		}
		w.exits[cv.Last.ID] = make(chan struct{})
		cv.Kill = w.definitionChanged(c, found)
		if cv.StartupPassed = c.StartupProbe == nil || cv.StartupPassed; c.ReadinessProbe == nil {
			cv.Ready = true
		}
	}
}

// adoptStatus takes from the API what the driver does not know: whether a running
// container was ready, and runs the driver has lost.
func (w *worker) adoptStatus(c *v1.Container, cv *containerView, old *v1.ContainerStatus) {
	if cv.Last != nil {
		if containerScheme+cv.Last.ID == old.ContainerID && cv.Last.Running {
			cv.StartupPassed, cv.Ready = isTrue(old.Started), old.Ready
			if old.Resources != nil {
				cv.Last.Resources = *old.Resources
			}
		}
		return
	}
	lost := &instance{Attempt: int(old.RestartCount), Sandbox: w.v.Sandbox.ID, ImageID: old.ImageID, FinishedAt: w.v.FirstSeen}
	switch {
	case old.State.Running != nil:
		lost.StartedAt = old.State.Running.StartedAt.Time
		lost.ExitCode, lost.Reason = 137, "ContainerStatusUnknown"
		lost.Message = "The container could not be located when the node agent started"
	case old.State.Terminated != nil && !podutil.IsPodTerminal(w.pod):
		t := old.State.Terminated
		lost.StartedAt, lost.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
		lost.ExitCode, lost.Reason, lost.Message = int(t.ExitCode), t.Reason, t.Message
	default:
		return
	}
	if id, ok := cutScheme(old.ContainerID); ok {
		lost.ID = id
	}
	cv.Last = lost
}

func cutScheme(id string) (string, bool) {
	if len(id) > len(containerScheme) && id[:len(containerScheme)] == containerScheme {
		return id[len(containerScheme):], true
	}
	return "", false
}

func (w *worker) instanceOf(st runtime.State) *instance {
	i := &instance{
		ID: st.ID, Attempt: attemptOf(st), Sandbox: st.Labels[labelSandbox],
		Image: st.Labels[labelImage], ImageID: st.Labels[labelImageID],
		Running: st.Running, StartedAt: st.StartedAt,
	}
	if !st.Running {
		w.fillExit(i, st)
	}
	return i
}

func attemptOf(st runtime.State) int {
	n, _ := strconv.Atoi(st.Labels[labelAttempt])
	return n
}

func statusOf(pod *v1.Pod, name string) (v1.ContainerStatus, bool) {
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		if s, ok := podutil.GetContainerStatus(list, name); ok {
			return s, true
		}
	}
	return v1.ContainerStatus{}, false
}

func (w *worker) definitionChanged(c *v1.Container, found []runtime.State) string {
	cv := w.v.Containers[c.Name]
	for _, st := range found {
		if st.ID == cv.Last.ID && st.Labels[labelSpecHash] != "" && st.Labels[labelSpecHash] != specHash(c) {
			return definitionChanged(c)
		}
	}
	return ""
}

func definitionChanged(c *v1.Container) string {
	return "Container " + c.Name + " definition changed, will be restarted"
}

// wake has the worker look again. It never blocks.
func (w *worker) wake() {
	select {
	case w.wakeup <- struct{}{}:
	default:
	}
}

// run works until the pod is forgotten or ctx ends. Containers stay as they are
// when ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.endRuns()
	w.mu.Lock()
	for _, st := range w.found {
		w.tellAdopted(st)
	}
	w.found = nil
	if w.refused {
		w.n.event(w.pod, "", v1.EventTypeWarning, w.v.Verdict.Reason, "%s", w.v.Verdict.Message)
	}
	w.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			w.mu.Lock()
			w.stopProbes(func(probeKey) bool { return true })
			w.mu.Unlock()
			w.ops.Wait()
			return
		case <-w.wakeup:
		case <-timer.C:
		}
		at, forgotten := w.sync()
		if forgotten {
			w.ops.Wait()
			return
		}
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(at), time.Millisecond))
		}
	}
}

// sync plans and begins the next steps. It returns when to look again at the
// latest, and whether the pod is gone for good.
func (w *worker) sync() (wakeAt time.Time, forgotten bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.v.Busy[forgottenKey] {
		return time.Time{}, true
	}
	w.v.Now = time.Now()
	wakeAt = w.report()
	if w.n.halting.Load() {
		return wakeAt, false
	}
	p := next(w.pod, &w.v)
	if outcome(w.pod, &w.v).stop {
		w.endRuns()
	}
	for _, s := range p.Steps {
		w.begin(s)
	}
	w.manageProbes()
	wakeAt = earliest(wakeAt, p.WakeAt)
	if w.v.Volumes.Ready && !w.v.TornDown && !w.refreshAt.IsZero() {
		if w.refreshAt.After(w.v.Now) {
			wakeAt = earliest(wakeAt, w.refreshAt)
		} else {
			w.start("refresh/", w.refreshVolumes)
		}
	}
	return wakeAt, false
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// forgottenKey marks in view.Busy that nothing of the pod is left.
const forgottenKey = "forgotten"

// begin starts the operation of a planned step.
func (w *worker) begin(s step) {
	switch s.Kind {
	case stepSandbox:
		w.start(s.key(), w.doSandbox)
	case stepVolumes:
		w.start(s.key(), w.doVolumes)
	case stepPull:
		w.start(s.key(), func() { w.doPull(s.Container) })
	case stepStart:
		w.start(s.key(), func() { w.doStart(s.Container) })
	case stepResize:
		w.start(s.key(), func() { w.doResize(s.Container) })
	case stepKill:
		w.kills[s.Container] = make(chan time.Duration, 1)
		w.start(s.key(), func() { w.doKill(s) })
	case stepTeardown:
		if !w.teardown.RetryAt.After(w.v.Now) {
			w.start(s.key(), w.doTeardown)
		}
	case stepDelete:
		w.start(s.key(), w.doDelete)
	case stepForget:
		w.start(s.key(), w.doForget)
	}
}

// start runs an operation unless it is running, and wakes the worker after it.
func (w *worker) start(key string, op func()) {
	if w.v.Busy[key] {
		return
	}
	w.v.Busy[key] = true
	w.ops.Add(1)
	w.n.underway.Add(1)
	w.n.crew.do(func() {
		defer w.ops.Done()
		op()
		w.n.underway.Add(-1)
		w.mu.Lock()
		delete(w.v.Busy, key)
		w.mu.Unlock()
		w.wake()
	})
}

// update takes a newer version of the pod.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !newer(pod, w.pod) {
		return
	}
	w.setPod(pod)
	w.wake()
}

func (w *worker) setPod(pod *v1.Pod) {
	old := w.pod
	w.pod = pod
	w.ensureViews()
	if pod.DeletionTimestamp != nil && w.v.DeletionSeen.IsZero() {
		w.v.DeletionSeen = time.Now()
	}
	if old.Generation != pod.Generation || old.Generation == 0 {
		for c := range containersOf(pod) {
			cv := w.v.Containers[c.Name]
			if cv.running() && cv.Kill == "" && cv.Last.Image != "" && cv.Last.Image != c.Image {
				cv.Kill = definitionChanged(c)
			}
		}
	}
	if metaChanged(old, pod) && w.v.Volumes.Ready {
		w.refreshAt = time.Unix(1, 0) // downwardAPI files follow labels and annotations
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil && (old.DeletionGracePeriodSeconds == nil || *g < *old.DeletionGracePeriodSeconds) {
		w.hurry(deletionGrace(pod, time.Now()))
	}
}

// hurry shortens kills that are under way.
func (w *worker) hurry(grace time.Duration) {
	for _, ch := range w.kills {
		select {
		case ch <- grace:
		default:
		}
	}
}

// removed tells that the API has the pod no more.
func (w *worker) removed(last *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last != nil && newer(last, w.pod) {
		w.setPod(last)
	}
	w.v.Removed = true
	w.hurry(deletionGrace(w.pod, time.Now()))
	w.wake()
}

// sandboxLost has the sandbox made anew: the process that held its PID namespace
// is gone, and all containers with it. The caller holds the lock.
func (w *worker) sandboxLost() {
	if !w.v.Sandbox.Ready || outcome(w.pod, &w.v).stop {
		return
	}
	w.v.Sandbox.attempt = attempt{}
	w.n.event(w.pod, "", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	w.wake()
}

// evict has the pod stop for want of a resource.
func (w *worker) evict(v verdict) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.v.Verdict != nil || outcome(w.pod, &w.v).stop {
		return false
	}
	w.v.Verdict = &v
	w.wake()
	return true
}
