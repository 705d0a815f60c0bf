package node

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// adoptedNews is how long an adoption is worth telling: as long as events are kept.
const adoptedNews = time.Hour

// tellAdopted says in an event what was lost when the holder of a container's
// streams died. The driver repeats itself, also to the next process, so the event's
// name is made of the incident: it is told once. The caller holds the lock.
func (w *worker) tellAdopted(st runtime.State) {
	container := st.Labels[labelContainer]
	if st.AdoptedAt.IsZero() || time.Since(st.AdoptedAt) > adoptedNews || container == pauseContainer {
		return
	}
	pod := w.pod
	w.start("adopted/"+st.ID, func() {
		_, err := w.n.client.CoreV1().Events(pod.Namespace).Create(w.n.ctx, adoptedEvent(pod, w.n.cfg.NodeName, container, st), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) && w.n.ctx.Err() == nil {
			w.log.Warn("tell that a container was adopted", "container", container, "error", err)
		}
	})
}

func adoptedEvent(pod *v1.Pod, node, container string, st runtime.State) *v1.Event {
	message := fmt.Sprintf("Container %s ran on when the shim that held its streams was killed; another shim has taken it over. "+
		"Sessions of attach and exec were cut, and output on its way to the log may be missing", container)
	if st.Message != "" {
		message += "; " + st.Message
	}
	at := metav1.NewTime(st.AdoptedAt)
	return &v1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace,
			Name:      fmt.Sprintf("%s.%x%s", pod.Name, st.AdoptedAt.UnixNano(), shortHash(st.ID)),
		},
		InvolvedObject: v1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath(pod, container),
		},
		Type: v1.EventTypeWarning, Reason: "ShimReplaced", Message: message + ".",
		Source:         v1.EventSource{Component: "kubelet", Host: node},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}
