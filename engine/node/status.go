package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	kubeletstatus "k8s.io/kubernetes/pkg/kubelet/status"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
)

// containerScheme is the prefix of container ids in the pod status.
const containerScheme = "gantry://"

// pullErrorShown is how long a failed pull is reported as ErrImagePull before it
// is reported as ImagePullBackOff.
const pullErrorShown = 2 * time.Second

// podStatus computes the status to report. It is pure; old states of the status
// come from pod.Status and keep what no view can know any more.
func podStatus(pod *v1.Pod, v *view, hostIP string) v1.PodStatus {
	old := &pod.Status
	out := outcome(pod, v)
	s := v1.PodStatus{
		QOSClass:              old.QOSClass,
		StartTime:             old.StartTime,
		NominatedNodeName:     old.NominatedNodeName,
		ResourceClaimStatuses: old.ResourceClaimStatuses,
		HostIP:                hostIP,
		HostIPs:               []v1.HostIP{{IP: hostIP}},
		PodIP:                 old.PodIP,
		PodIPs:                old.PodIPs,
		ObservedGeneration:    podutil.CalculatePodStatusObservedGeneration(pod),
	}
	if s.QOSClass == "" {
		s.QOSClass = qos.ComputePodQOS(pod)
	}
	if s.StartTime == nil {
		s.StartTime = &metav1.Time{Time: v.FirstSeen.Truncate(time.Second)}
	}
	setAddresses(&s, pod, v, hostIP)
	setContainerStatuses(&s, pod, v, out)
	setPhase(&s, pod, v, out)
	setConditions(&s, pod, v)
	return s
}

func setAddresses(s *v1.PodStatus, pod *v1.Pod, v *view, hostIP string) {
	ips := v.Sandbox.IPs
	if pod.Spec.HostNetwork {
		ips = []string{hostIP}
	}
	if len(ips) == 0 {
		return
	}
	s.PodIP, s.PodIPs = ips[0], nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
}

// setContainerStatuses says nothing of containers of a pod that was refused: as with the
// kubelet, the reason of the refusal is what a list of pods then shows.
func setContainerStatuses(s *v1.PodStatus, pod *v1.Pod, v *view, out ending) {
	if wasRefused(pod, v) {
		return
	}
	st := statuses{pod: pod, v: v, out: out}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s.InitContainerStatuses = append(s.InitContainerStatuses, st.of(c, pod.Status.InitContainerStatuses))
	}
	for i := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, st.of(&pod.Spec.Containers[i], pod.Status.ContainerStatuses))
	}
	for i := range pod.Spec.EphemeralContainers {
		c := (*v1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, st.of(c, pod.Status.EphemeralContainerStatuses))
	}
}

// wasRefused reports whether the pod was refused, by this process or by one before it.
func wasRefused(pod *v1.Pod, v *view) bool {
	if v.Verdict != nil {
		return !v.Verdict.Evicted
	}
	for _, cv := range v.Containers {
		if cv.Last != nil {
			return false
		}
	}
	return podutil.IsPodTerminal(pod) && len(pod.Status.ContainerStatuses) == 0
}

// statuses computes container statuses of one pod.
type statuses struct {
	pod *v1.Pod
	v   *view
	out ending
}

func (st statuses) of(c *v1.Container, olds []v1.ContainerStatus) v1.ContainerStatus {
	cv := st.v.Containers[c.Name]
	old, had := podutil.GetContainerStatus(olds, c.Name)
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: old.ImageID}
	started := false
	switch last := cv.Last; {
	case last == nil:
		if had && old.State.Terminated != nil {
			return old // it ended before this process could know
		}
		s.State.Waiting = st.waiting(c, cv)
		if had {
			s.LastTerminationState, s.RestartCount = old.LastTerminationState, old.RestartCount
		}
	case last.Running:
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt.Truncate(time.Second))}
		s.LastTerminationState = lastTermination(cv.Previous, old)
		started = cv.StartupPassed
		s.Ready = started && cv.Ready
	default:
		st.ended(&s, c, cv, old)
	}
	if last := cv.Last; last != nil {
		s.RestartCount = int32(last.Attempt)
		s.ContainerID = containerScheme + last.ID
		if last.ImageID != "" {
			s.ImageID = last.ImageID
		}
	}
	if isInit(st.pod, c.Name) && !podutil.IsRestartableInitContainer(c) {
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		started = s.State.Running != nil
	}
	s.Started = &started
	if s.State.Running != nil {
		s.Resources = cv.Last.Resources.DeepCopy()
		s.AllocatedResources = cv.Last.Resources.Requests.DeepCopy()
	}
	return s
}

// ended fills in the state of a container whose last run is over: Waiting with
// the end as last state when it is to run again and something is known to hold
// it up, else Terminated.
func (st statuses) ended(s *v1.ContainerStatus, c *v1.Container, cv *containerView, old v1.ContainerStatus) {
	term := terminated(cv.Last)
	p := planner{pod: st.pod, v: st.v}
	if !st.out.stop && p.willStart(c, cv) {
		if w := st.held(c, cv); w != nil {
			s.State.Waiting, s.LastTerminationState.Terminated = w, term
			return
		}
	}
	s.State.Terminated = term
	s.LastTerminationState = lastTermination(cv.Previous, old)
}

func lastTermination(prev *instance, old v1.ContainerStatus) v1.ContainerState {
	if prev != nil {
		return v1.ContainerState{Terminated: terminated(prev)}
	}
	if t := old.State.Terminated; t != nil && old.RestartCount > 0 {
		return v1.ContainerState{Terminated: t}
	}
	return old.LastTerminationState
}

func terminated(i *instance) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode:    int32(i.ExitCode),
		Reason:      i.Reason,
		Message:     i.Message,
		StartedAt:   metav1.NewTime(i.StartedAt.Truncate(time.Second)),
		FinishedAt:  metav1.NewTime(i.FinishedAt.Truncate(time.Second)),
		ContainerID: containerScheme + i.ID,
	}
	switch {
	case t.Reason != "":
	case i.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	return t
}

// waiting is the state of a container that has not run yet.
func (st statuses) waiting(c *v1.Container, cv *containerView) *v1.ContainerStateWaiting {
	blocked := len(st.pod.Spec.InitContainers) > 0 && !initialized(st.pod, st.v)
	if !blocked || isInit(st.pod, c.Name) {
		if w := st.held(c, cv); w != nil {
			return w
		}
	}
	if blocked {
		return &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

// held says what keeps a container from starting, or nil.
func (st statuses) held(c *v1.Container, cv *containerView) *v1.ContainerStateWaiting {
	switch {
	case cv.Image.Err != nil && !cv.Image.Ready:
		return imageWaiting(c, &cv.Image, st.v.Now)
	case cv.Create.Err != nil:
		return &v1.ContainerStateWaiting{Reason: cv.Create.Reason, Message: cv.Create.Err.Error()}
	case restartAt(cv).After(st.v.Now):
		return &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf(
			"back-off %s restarting failed container=%s pod=%s_%s(%s)",
			cv.Restart.Delay, c.Name, st.pod.Name, st.pod.Namespace, st.pod.UID)}
	}
	return nil
}

func imageWaiting(c *v1.Container, i *imageView, now time.Time) *v1.ContainerStateWaiting {
	if i.Reason == "ErrImagePull" && now.Sub(i.FailedAt) >= pullErrorShown {
		return &v1.ContainerStateWaiting{Reason: "ImagePullBackOff",
			Message: fmt.Sprintf("Back-off pulling image %q: %v", c.Image, i.Err)}
	}
	return &v1.ContainerStateWaiting{Reason: i.Reason, Message: i.Err.Error()}
}

func setPhase(s *v1.PodStatus, pod *v1.Pod, v *view, out ending) {
	old := &pod.Status
	switch {
	case podutil.IsPodPhaseTerminal(old.Phase): // never left again
		s.Phase, s.Reason, s.Message = old.Phase, old.Reason, old.Message
		return
	case out.failed:
		s.Phase, s.Reason, s.Message = v1.PodFailed, out.reason, out.message
		if anyRunning(v) {
			s.Phase = phaseWhileStopping(old.Phase)
		}
		return
	}
	s.Phase = phase(pod, s, v, out)
}

// phaseWhileStopping keeps a failing pod's phase until its containers are gone.
func phaseWhileStopping(old v1.PodPhase) v1.PodPhase {
	if old == "" {
		return v1.PodPending
	}
	return old
}

func anyRunning(v *view) bool {
	for _, cv := range v.Containers {
		if cv.running() {
			return true
		}
	}
	return false
}

// phase follows the definition of PodPhase: Pending until every container has
// been started once, then Running until none will run again.
func phase(pod *v1.Pod, s *v1.PodStatus, v *view, out ending) v1.PodPhase {
	running := anyRunning(v)
	if !running && initFailed(pod, v) {
		return v1.PodFailed
	}
	started, ended, succeeded := 0, 0, 0
	for i := range s.ContainerStatuses {
		cs := &s.ContainerStatuses[i]
		switch {
		case cs.State.Running != nil:
			started++
		case cs.State.Terminated != nil:
			started++
			ended++
			if cs.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case cs.LastTerminationState.Terminated != nil:
			started++
		}
	}
	switch all := len(s.ContainerStatuses); {
	case started < all:
		return v1.PodPending
	case ended == all && out.stop && !running:
		if succeeded == all {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	default:
		return v1.PodRunning
	}
}

// setConditions computes the conditions the node owns and keeps the others.
func setConditions(s *v1.PodStatus, pod *v1.Pod, v *view) {
	old := &pod.Status
	for _, c := range old.Conditions {
		if !kubetypes.PodConditionByKubelet(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if v.Verdict != nil && v.Verdict.Evicted {
		s.Conditions = utilpod.ReplaceOrAppendPodCondition(s.Conditions, &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: v1.PodReasonTerminationByKubelet, Message: v.Verdict.Message,
		})
	}
	all := slices.Concat(s.InitContainerStatuses, s.ContainerStatuses)
	ready := v1.ConditionFalse
	// Of a deleted pod the end of its containers and of its sandbox are one piece of news.
	ending := pod.DeletionTimestamp != nil && !anyRunning(v)
	if v.Sandbox.ID != "" && !v.TornDown && !ending {
		ready = v1.ConditionTrue
	}
	s.Conditions = append(s.Conditions,
		v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: ready,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(old, pod.Generation, v1.PodReadyToStartContainers)},
		kubeletstatus.GeneratePodInitializedCondition(pod, old, all, s.Phase),
		kubeletstatus.GeneratePodReadyCondition(pod, old, s.Conditions, all, s.Phase),
		kubeletstatus.GenerateContainersReadyCondition(pod, old, all, s.Phase),
		v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(old, pod.Generation, v1.PodScheduled)},
	)
	if c := resizing(pod, v); c != nil {
		s.Conditions = append(s.Conditions, *c)
	}
	now := metav1.NewTime(v.Now.Truncate(time.Second))
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if _, o := podutil.GetPodCondition(old, c.Type); o != nil && o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
			if c.LastProbeTime.IsZero() {
				c.LastProbeTime = o.LastProbeTime
			}
		} else if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = now
		}
	}
}

// resizing is the condition of a pod some of whose containers do not have the
// resources yet that it wants, or nil.
func resizing(pod *v1.Pod, v *view) *v1.PodCondition {
	for c := range containersOf(pod) {
		cv := v.Containers[c.Name]
		if !cv.running() || isEphemeral(pod, c.Name) || equality.Semantic.DeepEqual(cv.Last.Resources, c.Resources) {
			continue
		}
		cond := &v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, ObservedGeneration: pod.Generation}
		if err := cv.Resize.Err; err != nil {
			cond.Reason, cond.Message = v1.PodReasonError, err.Error()
		}
		return cond
	}
	return nil
}

// sameStatus reports whether publishing b over a would change nothing. The order
// of conditions does not matter.
func sameStatus(a, b *v1.PodStatus) bool {
	x, y := *a, *b
	x.Conditions, y.Conditions = byType(a.Conditions), byType(b.Conditions)
	return equality.Semantic.DeepEqual(&x, &y)
}

func byType(list []v1.PodCondition) []v1.PodCondition {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(p, q v1.PodCondition) int { return strings.Compare(string(p.Type), string(q.Type)) })
	return sorted
}
