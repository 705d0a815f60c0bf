package node

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// eventBurst and eventRate bound the events of one object: a pod in a crash loop
// must not fill the store, fifty pods that start at once must all be told about.
const (
	eventBurst = 50
	eventRate  = 1. / 300
)

// startEvents connects the recorder with the API. The returned function ends it.
func (n *Node) startEvents(ctx context.Context) (stop func()) {
	b := record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(record.CorrelatorOptions{
		BurstSize: eventBurst, QPS: eventRate,
	}))
	b.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: n.client.CoreV1().Events("")})
	n.recorder = b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: n.cfg.NodeName})
	return b.Shutdown
}

// event tells about a pod, or about one of its containers.
func (n *Node) event(pod *v1.Pod, container, kind, reason, format string, args ...any) {
	ref := &v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	n.recorder.Eventf(ref, kind, reason, format, args...)
}

func fieldPath(pod *v1.Pod, container string) string {
	field := "containers"
	switch {
	case isInit(pod, container):
		field = "initContainers"
	case isEphemeral(pod, container):
		field = "ephemeralContainers"
	}
	return "spec." + field + "{" + container + "}"
}
