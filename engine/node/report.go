package node

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
)

const (
	// quietCreation is how long a pod that is merely being created goes unreported:
	// most pods run before it is over and then need one write less.
	quietCreation = 800 * time.Millisecond
	// quietStart is how long the start of a container goes unreported while it is
	// not ready yet: most are ready before it is over, and one write says both.
	quietStart = 250 * time.Millisecond
	// quietStop is how long a deletion is not reported as noticed while containers
	// still run: most end before it is over.
	quietStop = 250 * time.Millisecond

	// While many operations on pods are under way, the first two take longer for a pod
	// like any other.
	crowd, crowdedTimes = 24, 4
)

// patience is how long something goes unreported that is usual: longer when many pods
// are on their way at once.
func (v *view) patience(usual time.Duration) time.Duration {
	if v.Crowded {
		return crowdedTimes * usual
	}
	return usual
}

// report publishes the status when it has changed, and records in the view
// whether the API has the current one. The caller holds the lock.
func (w *worker) report() (wakeAt time.Time) {
	w.v.Crowded = w.n.underway.Load() >= crowd
	if w.v.untold(w.pod) {
		w.v.Published = false
		// As a matter of course: others may be done sooner than it seems now.
		return w.v.Now.Add(quietCreation - w.v.Now.Sub(w.v.FirstSeen)%quietCreation)
	}
	status := podStatus(w.pod, &w.v, w.n.cfg.NodeIP.String())
	w.v.Published = w.v.Removed || sameStatus(&w.pod.Status, &status) || w.told.covers(&w.pod.Status, &status)
	if w.v.Published {
		return time.Time{}
	}
	if at := w.v.quietUntil(w.pod, &status); at.After(w.v.Now) {
		return at
	}
	if w.publish.RetryAt.After(w.v.Now) {
		return w.publish.RetryAt
	}
	pod := w.pod
	w.start("status/", func() { w.doPublish(pod, status) })
	return time.Time{}
}

// untold reports whether nothing has happened yet that is worth a look at the
// status: the pod is new, and nothing of it runs or has failed.
func (v *view) untold(pod *v1.Pod) bool {
	if !v.FirstSeen.Add(v.patience(quietCreation)).After(v.Now) || pod.Status.StartTime != nil ||
		pod.DeletionTimestamp != nil || pod.Spec.ActiveDeadlineSeconds != nil || v.Verdict != nil || v.Removed {
		return false
	}
	for _, cv := range v.Containers {
		if cv.Last != nil || cv.Image.Err != nil || cv.Create.Err != nil {
			return false
		}
	}
	return true
}

// quietUntil says until when a status may wait because more of it is about to
// come: a start that soon is readiness, a stop that soon is the end.
func (v *view) quietUntil(pod *v1.Pod, s *v1.PodStatus) time.Time {
	if pod.DeletionTimestamp != nil {
		if anyRunning(v) {
			return v.DeletionSeen.Add(quietStop)
		}
		return time.Time{}
	}
	if s.Phase != v1.PodPending && s.Phase != v1.PodRunning || pod.Spec.ActiveDeadlineSeconds != nil {
		return time.Time{}
	}
	due := true // nothing more is about to come
	for i := range s.InitContainerStatuses {
		if c := &s.InitContainerStatuses[i]; c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 || c.RestartCount > 0 {
			coming := comesUp(c)
			if !coming {
				return time.Time{}
			}
			due = due && c.Ready
		}
	}
	for i := range s.ContainerStatuses {
		if !comesUp(&s.ContainerStatuses[i]) {
			return time.Time{}
		}
		due = due && s.ContainerStatuses[i].Ready
	}
	if due {
		return time.Time{}
	}
	var started time.Time
	for _, cv := range v.Containers {
		if cv.running() && cv.Last.StartedAt.After(started) {
			started = cv.Last.StartedAt
		}
	}
	if started.IsZero() {
		return v.FirstSeen.Add(v.patience(quietCreation))
	}
	return started.Add(v.patience(quietStart))
}

// comesUp reports whether a container is in its first run or on the way to it.
func comesUp(c *v1.ContainerStatus) bool {
	if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
		return false
	}
	return c.State.Terminated == nil && c.RestartCount == 0
}

// told is a published status and what the API made of it, which may leave out what
// it does not know: publishing the same once more would not help.
type told struct{ sent, got *v1.PodStatus }

func (t told) covers(api, status *v1.PodStatus) bool {
	return t.sent != nil && sameStatus(t.sent, status) && sameStatus(t.got, api)
}

// doPublish writes the pod's status, which was as in pod. Nobody else writes to a
// pod that runs, as a rule: then replacing the status is cheapest. Else what has
// changed is merged into what is there.
func (w *worker) doPublish(pod *v1.Pod, status v1.PodStatus) {
	next := *pod
	next.Status = status
	got, err := w.n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(w.n.ctx, &next, metav1.UpdateOptions{})
	unchanged := err == nil && got.ResourceVersion == pod.ResourceVersion
	if apierrors.IsConflict(err) {
		got, _, unchanged, err = utilpod.PatchPodStatus(w.n.ctx, w.n.client, pod.Namespace, pod.Name, pod.UID, pod.Status, status)
	}
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
