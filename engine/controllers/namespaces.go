package controllers

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/namespace/deletion"
)

// namespaces empties and then removes deleted namespaces. What that means is
// upstream's (package deletion); when it happens is ours: upstream waits five
// seconds for API servers elsewhere to notice, and then half of the pods'
// longest grace period, where one machine can look again at once.
//
// Watches: Namespaces. Writes: deletes everything in a deleted namespace, then
// its finalizer.
type namespaces struct {
	deleter deletion.NamespacedResourcesDeleterInterface
	queue   workqueue.TypedRateLimitingInterface[string]
}

const (
	// namespaceHeadStart lets admission, which reads namespaces from a cache,
	// notice the deletion before the content is looked at.
	namespaceHeadStart = 50 * time.Millisecond
	// A namespace that is not empty yet is looked at again after these.
	namespaceRetryMin, namespaceRetryMax = 100 * time.Millisecond, 5 * time.Second
)

func newNamespace(ctx context.Context, e *environment) (run, error) {
	const name = "namespace-controller"
	client, err := e.client(name)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(e.config(name))
	if err != nil {
		return nil, err
	}
	c := &namespaces{
		deleter: deletion.NewNamespacedResourcesDeleter(ctx, client.CoreV1().Namespaces(), meta, client.CoreV1(),
			client.Discovery().ServerPreferredNamespacedResources, corev1.FinalizerKubernetes),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](namespaceRetryMin, namespaceRetryMax)),
	}
	_, err = e.informers.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.enqueue,
		UpdateFunc: func(_, obj any) { c.enqueue(obj) },
	})
	return func(ctx context.Context) { serveQueue(ctx, c.queue, workers, c.sync) }, err
}

func (c *namespaces) enqueue(obj any) {
	if ns, ok := obj.(*corev1.Namespace); ok && ns.DeletionTimestamp != nil && len(ns.Spec.Finalizers) > 0 {
		c.queue.AddAfter(ns.Name, namespaceHeadStart)
	}
}

// sync deletes what is left and answers an error as long as anything is.
func (c *namespaces) sync(ctx context.Context, name string) error {
	err := c.deleter.Delete(ctx, name)
	var remaining *deletion.ResourcesRemainingError
	if err != nil && !errors.As(err, &remaining) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "empty deleted namespace; trying again", "namespace", name)
	}
	return err
}
