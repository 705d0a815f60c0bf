package node

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// runtimeHandler returns the driver's handler for the pod's RuntimeClass.
func (n *Node) runtimeHandler(ctx context.Context, pod *v1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return n.cfg.DefaultHandler, nil
	}
	name := *pod.Spec.RuntimeClassName
	class, err := n.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("RuntimeClass %q does not exist any more: create it with one of the handlers %q, or delete the pod", name, n.cfg.Handlers)
	}
	if err != nil {
		return "", fmt.Errorf("get RuntimeClass %q: %w", name, err)
	}
	if !slices.Contains(n.cfg.Handlers, class.Handler) {
		return "", fmt.Errorf("no runtime for handler %q of RuntimeClass %q is configured on this machine: install it and restart gantry serve, or use a RuntimeClass with one of the handlers %q", class.Handler, name, n.cfg.Handlers)
	}
	return class.Handler, nil
}

// userNSHandler is the one handler for pods with hostUsers: false. With runc they
// run, but it (1.1.5) cannot enter them again: it joins their user namespace first
// and then has no right to join the pod's other namespaces.
const userNSHandler = "gantry"

// EnsureRuntimeClasses makes a RuntimeClass exist for every handler, under the
// handler's name. One that exists is left as it is: overhead and scheduling are
// the administrator's.
func EnsureRuntimeClasses(ctx context.Context, client kubernetes.Interface, handlers []string) error {
	classes := client.NodeV1().RuntimeClasses()
	for _, h := range handlers {
		_, err := classes.Get(ctx, h, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = classes.Create(ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: h}, Handler: h}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make RuntimeClass %q: %w", h, err)
		}
	}
	return nil
}
