package node

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

type stepKind string

const (
	stepSandbox  stepKind = "sandbox"  // namespaces, network, files
	stepVolumes  stepKind = "volumes"  // set up all volumes
	stepPull     stepKind = "pull"     // make the container's image present
	stepStart    stepKind = "start"    // create and start the container, run postStart
	stepResize   stepKind = "resize"   // change a running container's limits
	stepKill     stepKind = "kill"     // preStop, stop signal, kill after the grace period
	stepTeardown stepKind = "teardown" // remove containers, volumes, sandbox
	stepDelete   stepKind = "delete"   // delete the API object
	stepForget   stepKind = "forget"   // remove the pod's directories and end the worker
)

// step is one thing to do next. Steps of one plan are independent of each other.
type step struct {
	Kind      stepKind
	Container string // pull, start, resize, kill
	Reason    string // kill: why, as the event says it
	Grace     time.Duration
}

// key identifies the operation: while it is busy it is not planned again.
func (s step) key() string { return string(s.Kind) + "/" + s.Container }

// plan is what to do now, and when to look again though nothing changed.
type plan struct {
	Steps  []step
	WakeAt time.Time // zero: only when something changes
}

// next decides what to do for a pod. It is pure: it may be called at any moment,
// in particular with the view of a process that has just started and found the
// containers of its predecessor.
func next(pod *v1.Pod, v *view) plan {
	p := planner{pod: pod, v: v}
	if out := outcome(pod, v); out.stop {
		p.stop(out)
	} else {
		p.run()
	}
	if at, ok := deadline(pod); ok && at.After(v.Now) {
		p.wakeAt(at)
	}
	return p.plan
}

type planner struct {
	pod  *v1.Pod
	v    *view
	plan plan
}

func (p *planner) add(s step) {
	if !p.v.Busy[s.key()] {
		p.plan.Steps = append(p.plan.Steps, s)
	}
}

// due adds s when its time has come, else asks to be woken then.
func (p *planner) due(s step, at time.Time) {
	if at.After(p.v.Now) {
		p.wakeAt(at)
		return
	}
	p.add(s)
}

func (p *planner) wakeAt(at time.Time) {
	if p.plan.WakeAt.IsZero() || at.Before(p.plan.WakeAt) {
		p.plan.WakeAt = at
	}
}

// run brings a pod that should run one step further.
func (p *planner) run() {
	if !p.v.Volumes.Ready {
		p.due(step{Kind: stepVolumes}, p.v.Volumes.RetryAt)
	}
	if !p.v.Sandbox.Ready {
		p.due(step{Kind: stepSandbox}, p.v.Sandbox.RetryAt)
	}
	p.pull()
	if !p.v.Volumes.Ready || !p.v.Sandbox.Ready {
		return
	}
	p.killUnwanted()
	p.resize()
	if p.starting() || !p.runInit() {
		return
	}
	p.runRegular()
	p.runEphemeral()
}

// pull fetches all missing images at once: the later containers' images arrive
// while the earlier containers run.
func (p *planner) pull() {
	pulling := map[string]bool{}
	for c := range containersOf(p.pod) {
		if p.v.Busy[step{Kind: stepPull, Container: c.Name}.key()] {
			pulling[c.Image] = true
		}
	}
	for c := range containersOf(p.pod) {
		cv := p.v.Containers[c.Name]
		if cv.Image.Ready || cv.running() || pulling[c.Image] || !p.willStart(c, cv) {
			continue
		}
		pulling[c.Image] = true // containers with the same image find it present then
		p.due(step{Kind: stepPull, Container: c.Name}, cv.Image.RetryAt)
		if cv.Image.Err != nil {
			// The status turns from ErrImagePull to ImagePullBackOff then.
			if at := cv.Image.FailedAt.Add(pullErrorShown); at.After(p.v.Now) {
				p.wakeAt(at)
			}
		}
	}
}

// willStart reports whether the container is to run (again) at some time.
func (p *planner) willStart(c *v1.Container, cv *containerView) bool {
	switch {
	case cv.Last == nil:
		return true
	case cv.Last.Running || isEphemeral(p.pod, c.Name):
		return false
	case isInit(p.pod, c.Name) && !podutil.IsRestartableInitContainer(c):
		return !p.initDone(cv) && (cv.Last.ExitCode == 0 || restartable(p.pod, c, cv.Last))
	default:
		return podutil.IsRestartableInitContainer(c) || restartable(p.pod, c, cv.Last)
	}
}

func (p *planner) killUnwanted() {
	for c := range containersOf(p.pod) {
		if cv := p.v.Containers[c.Name]; cv.running() && cv.Kill != "" {
			grace := cv.KillGrace
			if grace == 0 {
				grace = specGrace(p.pod)
			}
			p.add(step{Kind: stepKill, Container: c.Name, Reason: cv.Kill, Grace: grace})
		}
	}
}

// resize changes the limits of running containers to what the pod wants now.
func (p *planner) resize() {
	for c := range containersOf(p.pod) {
		cv := p.v.Containers[c.Name]
		if !cv.running() || cv.Kill != "" || equality.Semantic.DeepEqual(cv.Last.Resources, c.Resources) {
			continue
		}
		if resizeRestarts(c, &cv.Last.Resources) {
			reason := "Container " + c.Name + " resize requires restart"
			p.add(step{Kind: stepKill, Container: c.Name, Reason: reason, Grace: specGrace(p.pod)})
		} else {
			p.due(step{Kind: stepResize, Container: c.Name}, cv.Resize.RetryAt)
		}
	}
}

// resizeRestarts reports whether the container wants to be restarted when a
// resource changes that has.
func resizeRestarts(c *v1.Container, have *v1.ResourceRequirements) bool {
	for _, rp := range c.ResizePolicy {
		limit, was := c.Resources.Limits[rp.ResourceName], have.Limits[rp.ResourceName]
		request, asked := c.Resources.Requests[rp.ResourceName], have.Requests[rp.ResourceName]
		if rp.RestartPolicy == v1.RestartContainer && (!limit.Equal(was) || !request.Equal(asked)) {
			return true
		}
	}
	return false
}

// starting reports whether a container is being started: containers start one
// after the other, each after the postStart hook of the one before.
func (p *planner) starting() bool {
	for c := range containersOf(p.pod) {
		if p.v.Busy[step{Kind: stepStart, Container: c.Name}.key()] {
			return true
		}
	}
	return false
}

// runInit runs the init containers in order and reports whether the regular
// containers may start.
func (p *planner) runInit() bool {
	if initialized(p.pod, p.v) {
		for i := range p.pod.Spec.InitContainers {
			c := &p.pod.Spec.InitContainers[i]
			if cv := p.v.Containers[c.Name]; podutil.IsRestartableInitContainer(c) && !cv.running() {
				if p.start(c, cv) {
					return false
				}
			}
		}
		return true
	}
	for i := range p.pod.Spec.InitContainers {
		c := &p.pod.Spec.InitContainers[i]
		cv := p.v.Containers[c.Name]
		if podutil.IsRestartableInitContainer(c) {
			if !cv.running() {
				p.start(c, cv)
				return false
			}
			if !cv.StartupPassed {
				return false
			}
			continue
		}
		if p.initDone(cv) {
			continue
		}
		if !cv.running() {
			p.start(c, cv)
		}
		return false
	}
	return true
}

func (p *planner) initDone(cv *containerView) bool {
	if initialized(p.pod, p.v) {
		return true
	}
	return cv.Last != nil && !cv.Last.Running && cv.Last.ExitCode == 0 && cv.Last.Sandbox == p.v.Sandbox.ID
}

// runRegular starts the first regular container that is due. One that failed and
// waits to be tried again does not hold the others up; one whose image is on its
// way does.
func (p *planner) runRegular() {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		cv := p.v.Containers[c.Name]
		if cv.running() || cv.Last != nil && !restartable(p.pod, c, cv.Last) {
			continue
		}
		if p.start(c, cv) || !cv.Image.Ready && cv.Image.Err == nil {
			return
		}
	}
}

func (p *planner) runEphemeral() {
	for i := range p.pod.Spec.EphemeralContainers {
		c := (*v1.Container)(&p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if cv := p.v.Containers[c.Name]; cv.Last == nil && p.start(c, cv) {
			return
		}
	}
}

// start plans the start of a container if nothing stands against it now.
func (p *planner) start(c *v1.Container, cv *containerView) bool {
	s := step{Kind: stepStart, Container: c.Name}
	if !cv.Image.Ready || p.v.Busy[step{Kind: stepKill, Container: c.Name}.key()] {
		return false
	}
	at := cv.Create.RetryAt
	if until := restartAt(cv); until.After(at) {
		at = until
	}
	if at.After(p.v.Now) {
		p.wakeAt(at)
		return false
	}
	p.add(s)
	return true
}

// restartAt is when the restart back-off of a container that has ended is over.
func restartAt(cv *containerView) time.Time {
	if cv.Last == nil || cv.Last.Running {
		return time.Time{}
	}
	return cv.Restart.until(cv.Last.FinishedAt)
}

// stop brings a pod that must not run (any more) one step nearer to its end:
// regular containers stop first, then the sidecars in reverse order, then what
// they used is removed, then the API object.
func (p *planner) stop(out ending) {
	if p.stopContainers(out.grace) {
		return
	}
	for key := range p.v.Busy {
		switch key {
		case step{Kind: stepTeardown}.key(), step{Kind: stepDelete}.key(), step{Kind: stepForget}.key():
		default:
			return // an operation may still create something
		}
	}
	switch {
	case !p.v.TornDown:
		if p.v.Published || p.v.Removed {
			p.add(step{Kind: stepTeardown})
		}
	case p.v.Removed:
		p.add(step{Kind: stepForget})
	case p.pod.DeletionTimestamp != nil && p.v.Published:
		p.add(step{Kind: stepDelete})
	}
}

// stopContainers plans kills and reports whether any container still runs.
func (p *planner) stopContainers(grace time.Duration) bool {
	var sidecars []string
	regular := false
	for c := range containersOf(p.pod) {
		if !p.v.Containers[c.Name].running() {
			continue
		}
		if isInit(p.pod, c.Name) && podutil.IsRestartableInitContainer(c) {
			sidecars = append(sidecars, c.Name)
			continue
		}
		regular = true
		p.add(step{Kind: stepKill, Container: c.Name, Grace: grace})
	}
	if !regular && len(sidecars) > 0 {
		p.add(step{Kind: stepKill, Container: sidecars[len(sidecars)-1], Grace: grace})
	}
	return regular || len(sidecars) > 0
}

func (cv *containerView) running() bool { return cv.Last != nil && cv.Last.Running }
