package node

import (
	"time"

	v1 "k8s.io/api/core/v1"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
)

// quietStart is how long a pod that is merely being created goes unreported:
// most pods run before it is over and then need one write less.
const quietStart = 250 * time.Millisecond

// report publishes the status when it has changed, and records in the view
// whether the API has the current one. The caller holds the lock.
func (w *worker) report() (wakeAt time.Time) {
	status := podStatus(w.pod, &w.v, w.n.cfg.NodeIP.String())
	w.v.Published = w.v.Removed || sameStatus(&w.pod.Status, &status)
	if w.v.Published {
		return time.Time{}
	}
	if at := w.v.FirstSeen.Add(quietStart); at.After(w.v.Now) && merelyCreating(w.pod, &status) {
		return at
	}
	if w.publish.RetryAt.After(w.v.Now) {
		return w.publish.RetryAt
	}
	pod := w.pod
	w.start("status/", func() { w.doPublish(pod, status) })
	return time.Time{}
}

// merelyCreating reports whether a status says no more than that the pod was seen.
func merelyCreating(pod *v1.Pod, s *v1.PodStatus) bool {
	if s.Phase != v1.PodPending || pod.DeletionTimestamp != nil || pod.Spec.ActiveDeadlineSeconds != nil {
		return false
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" || list[i].RestartCount > 0 {
				return false
			}
		}
	}
	return true
}

// doPublish patches the pod's status from the one of pod to status.
func (w *worker) doPublish(pod *v1.Pod, status v1.PodStatus) {
	got, _, unchanged, err := utilpod.PatchPodStatus(w.n.ctx, w.n.client, pod.Namespace, pod.Name, pod.UID, pod.Status, status)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		if w.n.ctx.Err() == nil && !w.v.Removed {
			w.publish.failed(err, time.Now(), 100*time.Millisecond, 10*time.Second)
			w.log.Warn("publish pod status", "error", err)
		}
	case unchanged:
		// What differs cannot be told in a patch: take it as told.
		told := pod.DeepCopy()
		told.Status = status
		if w.pod == pod {
			w.pod = told
		}
	default:
		w.publish = attempt{}
		if newer(got, w.pod) {
			w.setPod(got)
		}
	}
}
