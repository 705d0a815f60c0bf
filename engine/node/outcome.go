package node

import (
	"iter"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// ending says whether and why a pod's containers must not run any more.
type ending struct {
	stop            bool
	failed          bool // the phase is Failed whatever the exit codes
	reason, message string
	grace           time.Duration // for containers that still run
}

const deadlineMessage = "Pod was active on the node longer than the specified deadline"

// outcome decides whether the pod has come to its end.
func outcome(pod *v1.Pod, v *view) ending {
	grace := specGrace(pod)
	if pod.DeletionTimestamp != nil || v.Removed {
		grace = deletionGrace(pod, v.Now)
	}
	if v.Verdict != nil {
		if v.Verdict.Evicted {
			grace = min(grace, time.Second)
		}
		return ending{stop: true, failed: true, reason: v.Verdict.Reason, message: v.Verdict.Message, grace: grace}
	}
	if at, ok := deadline(pod); ok && !at.After(v.Now) && !podutil.IsPodTerminal(pod) && !finished(pod, v) {
		return ending{stop: true, failed: true, reason: "DeadlineExceeded", message: deadlineMessage, grace: grace}
	}
	stop := v.Removed || pod.DeletionTimestamp != nil || podutil.IsPodTerminal(pod) || finished(pod, v) || initFailed(pod, v)
	return ending{stop: stop, grace: grace}
}

// finished reports whether every regular container has ended for good.
func finished(pod *v1.Pod, v *view) bool {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		last := v.Containers[c.Name].Last
		if last == nil || last.Running || restartable(pod, c, last) {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

// initFailed reports whether an init container failed for good.
func initFailed(pod *v1.Pod, v *view) bool {
	if initialized(pod, v) {
		return false
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		last := v.Containers[c.Name].Last
		if last != nil && !last.Running && last.ExitCode != 0 && !restartable(pod, c, last) {
			return true
		}
	}
	return false
}

// initialized reports whether a regular container has run in this sandbox: from
// then on init containers never run again.
func initialized(pod *v1.Pod, v *view) bool {
	if v.Sandbox.ID == "" {
		return false
	}
	for i := range pod.Spec.Containers {
		if last := v.Containers[pod.Spec.Containers[i].Name].Last; last != nil && last.Sandbox == v.Sandbox.ID {
			return true
		}
	}
	return false
}

// restartable reports whether the restart policy wants an ended container back.
func restartable(pod *v1.Pod, c *v1.Container, last *instance) bool {
	return podutil.ContainerShouldRestart(*c, pod.Spec, int32(last.ExitCode))
}

// deadline returns when activeDeadlineSeconds is over.
func deadline(pod *v1.Pod) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}, false
	}
	return pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

func specGrace(pod *v1.Pod) time.Duration {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return max(time.Duration(*g)*time.Second, time.Second)
	}
	return v1.DefaultTerminationGracePeriodSeconds * time.Second
}

// deletionGrace is what is left of the grace period of a deletion, at least a
// second: the deletion timestamp is when the period ends.
func deletionGrace(pod *v1.Pod, now time.Time) time.Duration {
	switch {
	case pod.DeletionGracePeriodSeconds == nil:
		return specGrace(pod)
	case *pod.DeletionGracePeriodSeconds == 0 || pod.DeletionTimestamp == nil:
		return time.Second
	}
	return max(pod.DeletionTimestamp.Sub(now), time.Second)
}

// containersOf yields init, regular and ephemeral containers in this order.
func containersOf(pod *v1.Pod) iter.Seq[*v1.Container] {
	return func(yield func(*v1.Container) bool) {
		for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
			if !yield(c) {
				return
			}
		}
	}
}

func isInit(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

func isEphemeral(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}
