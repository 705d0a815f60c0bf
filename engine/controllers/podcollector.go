package controllers

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
)

// podCollector deletes pods that nobody else will: finished ones beyond a
// number that is kept for their logs, those on a machine that is gone (as
// after a change of its name), and those deleted before they had a node.
//
// Upstream's controller of the same purpose cannot be used: it links in the
// kubelet and cAdvisor.
//
// Watches: Pods, Nodes (read periodically). Writes: deletes Pods.
type podCollector struct {
	client  kubernetes.Interface
	pods    corelisters.PodLister
	nodes   corelisters.NodeLister
	missing map[string]time.Time // since when a node that has pods has been missing
}

const (
	podCollectorPeriod = 20 * time.Second
	// keepFinishedPods is how many finished pods stay.
	keepFinishedPods = 1000
	// missingNodePatience is how long a node may be missing before its pods are
	// given up; upstream's value.
	missingNodePatience = 40 * time.Second
)

func newPodCollector(_ context.Context, e *environment) (run, error) {
	client, err := e.client("pod-garbage-collector")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c := &podCollector{client: client, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), missing: map[string]time.Time{}}
	return func(ctx context.Context) {
		wait.UntilWithContext(ctx, c.collect, podCollectorPeriod)
	}, nil
}

func (c *podCollector) collect(ctx context.Context) {
	pods, err := c.pods.List(everything)
	if err != nil {
		return
	}
	nodes, err := c.nodes.List(everything)
	if err != nil {
		return
	}
	names := sets.New[string]()
	for _, n := range nodes {
		names.Insert(n.Name)
	}
	c.noteMissing(pods, names, time.Now())
	for _, pod := range collectable(pods, keepFinishedPods, c.givenUp(time.Now())) {
		if err := c.delete(ctx, pod); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "delete pod that nobody else will", "pod", klog.KObj(pod))
		}
	}
}

// noteMissing keeps track of the nodes that pods are bound to and that do not exist.
func (c *podCollector) noteMissing(pods []*corev1.Pod, nodes sets.Set[string], now time.Time) {
	used := sets.New[string]()
	for _, p := range pods {
		used.Insert(p.Spec.NodeName)
	}
	for name := range c.missing {
		if nodes.Has(name) || !used.Has(name) {
			delete(c.missing, name)
		}
	}
	for name := range used {
		if _, noted := c.missing[name]; name != "" && !noted && !nodes.Has(name) {
			c.missing[name] = now
		}
	}
}

func (c *podCollector) givenUp(now time.Time) sets.Set[string] {
	gone := sets.New[string]()
	for name, since := range c.missing {
		if now.Sub(since) >= missingNodePatience {
			gone.Insert(name)
		}
	}
	return gone
}

// collectable picks the pods to delete.
func collectable(pods []*corev1.Pod, keep int, gone sets.Set[string]) []*corev1.Pod {
	var picked, ended []*corev1.Pod
	for _, p := range pods {
		switch {
		case gone.Has(p.Spec.NodeName), p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
			picked = append(picked, p)
		case p.DeletionTimestamp == nil && finished(p):
			ended = append(ended, p)
		}
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return append(picked, ended[:max(0, len(ended)-keep)]...)
}

// delete removes a pod at once; one that had not finished is marked as failed
// first, so that a Job counts it.
func (c *podCollector) delete(ctx context.Context, pod *corev1.Pod) error {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	if !finished(pod) {
		_, err := pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	now := int64(0)
	return ignoreNotFound(pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	}))
}
