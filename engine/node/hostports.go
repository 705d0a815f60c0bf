package node

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	schedutil "k8s.io/kubernetes/pkg/scheduler/util"
)

// admitHostPorts refuses a pod that wants a host port which one of others has.
// The scheduler does not bind such a pod, but a pod that is created with a
// nodeName passes it by.
func admitHostPorts(pod *v1.Pod, others []*v1.Pod) *verdict {
	for _, other := range others {
		if !nodeports.Fits(pod, framework.NewNodeInfo(other)) {
			return &verdict{Reason: "NodePorts", Message: fmt.Sprintf(
				"a host port of this pod belongs to pod %s/%s: use another port, or delete that pod", other.Namespace, other.Name)}
		}
	}
	return nil
}

// admitted lists the other pods that run here or may, for a pod with host ports.
// The caller holds the lock.
func (n *Node) admitted(pod *v1.Pod) []*v1.Pod {
	if len(schedutil.GetHostPorts(pod)) == 0 {
		return nil
	}
	return n.others(pod)
}

// others lists the other pods that run here or may. The caller holds the lock.
func (n *Node) others(pod *v1.Pod) []*v1.Pod {
	all, err := n.pods.List(labels.Everything())
	if err != nil {
		return nil // a lister over memory has no errors
	}
	var out []*v1.Pod
	for _, p := range all {
		if w := n.workers[p.UID]; w != nil && p.UID != pod.UID && !w.refused && !podutil.IsPodTerminal(p) {
			out = append(out, p)
		}
	}
	return out
}
