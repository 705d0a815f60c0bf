package node

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
)

// quietStart is how long a pod that is merely being created goes unreported:
// most pods run before it is over and then need one write less.
const quietStart = 250 * time.Millisecond

// report publishes the status when it has changed, and records in the view
// whether the API has the current one. The caller holds the lock.
func (w *worker) report() (wakeAt time.Time) {
	status := podStatus(w.pod, &w.v, w.n.cfg.NodeIP.String())
	w.v.Published = w.v.Removed || sameStatus(&w.pod.Status, &status) || w.told.covers(&w.pod.Status, &status)
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

// told is a published status and what the API made of it, which may leave out what
// it does not know: publishing the same once more would not help.
type told struct{ sent, got *v1.PodStatus }

func (t told) covers(api, status *v1.PodStatus) bool {
	return t.sent != nil && sameStatus(t.sent, status) && sameStatus(t.got, api)
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
			// Upstream's helper flattens the error to text. A pod that is not found was
			// deleted, and the news of it is on its way.
			if !apierrors.IsNotFound(err) && !strings.HasSuffix(err.Error(), "not found") {
				w.log.Warn("publish pod status", "error", err)
			}
		}
	case unchanged:
		w.told = told{&status, &pod.Status}
	default:
		w.publish = attempt{}
		w.told = told{&status, &got.Status}
		if newer(got, w.pod) {
			w.setPod(got)
		}
	}
}
