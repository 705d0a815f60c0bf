package logs

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/services/logs/crilog"
)

// uidIndex finds pods by their UID.
const uidIndex = "uid"

func byUID(o any) ([]string, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if mirrored := pod.Annotations[mirrorAnnotation]; mirrored != "" {
		return []string{string(pod.UID), mirrored}, nil
	}
	return []string{string(pod.UID)}, nil
}

// slim is a pod without what the service does not look at: there are many.
func slim(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	s := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels,
			OwnerReferences: pod.OwnerReferences, CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if pod.Annotations[mirrorAnnotation] != "" {
		s.Annotations = map[string]string{mirrorAnnotation: pod.Annotations[mirrorAnnotation]}
	}
	s.Status.InitContainerStatuses, s.Status.ContainerStatuses = pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses
	s.Status.EphemeralContainerStatuses = pod.Status.EphemeralContainerStatuses
	return s, nil
}

// mirrorAnnotation has the UID that a kubelet names the directory of a static pod by.
const mirrorAnnotation = "kubernetes.io/config.hash"

// Labels of every log, besides those of its pod, which keep their names with what is no letter, digit or
// underscore replaced by one.
const (
	labelNamespace = "namespace"
	labelPod       = "pod"
	labelContainer = "container"
	labelApp       = "app"      // the pod's label app, app.kubernetes.io/name, or else the workload
	labelWorkload  = "workload" // what owns the pod: the name of its Deployment, StatefulSet, Job ...
	labelNode      = "node"
	labelStream    = "stream" // stdout or stderr; of lines, not of logs
)

// maxPodLabels is how many labels of a pod become labels of its logs.
const maxPodLabels = 30

// generated lists labels that tell nothing but which replica or revision it is.
var generated = map[string]bool{
	"pod-template-hash": true, "controller-revision-hash": true, "pod-template-generation": true, "controller-uid": true,
	"batch.kubernetes.io/controller-uid": true, "statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
}

// labelsOf are the labels of a container's log. pod is nil when it is not known any more.
func labelsOf(p crilog.Pod, container string, pod *corev1.Pod) labels.Labels {
	m := map[string]string{}
	if pod != nil {
		for k, v := range pod.Labels {
			if !generated[k] && v != "" && len(m) < maxPodLabels {
				m[labelName(k)] = v
			}
		}
		if w := workload(pod); w != "" {
			m[labelWorkload] = w
		}
		if pod.Spec.NodeName != "" {
			m[labelNode] = pod.Spec.NodeName
		}
		for _, from := range []string{"app_kubernetes_io_name", labelWorkload} {
			if m[labelApp] == "" && m[from] != "" {
				m[labelApp] = m[from]
			}
		}
	}
	delete(m, labelStream)
	m[labelNamespace], m[labelPod], m[labelContainer] = p.Namespace, p.Name, container
	return labels.FromMap(m)
}

// labelName makes a name of a pod's label one of a log's.
func labelName(k string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, k)
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// workload is the name of what somebody has made the pod with.
func workload(pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return pod.Name
	}
	if hash := pod.Labels["pod-template-hash"]; owner.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(owner.Name, "-"+hash)
	}
	return owner.Name
}

// podByUID finds a pod, or returns nil.
func podByUID(indexer cache.Indexer, uid string) *corev1.Pod {
	found, err := indexer.ByIndex(uidIndex, uid)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*corev1.Pod)
}
