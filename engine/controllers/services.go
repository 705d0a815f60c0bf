package controllers

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/controller/endpoint"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/endpointslicemirroring"
)

const (
	endpointsPerSlice = 100
	// Endpoints are for old clients only and are rewritten as a whole with
	// each change, so several changes are put together.
	endpointsBatch = time.Second
)

func newEndpointSlice(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("endpointslice-controller")
	if err != nil {
		return nil, err
	}
	core, slices := e.informers.Core().V1(), e.informers.Discovery().V1().EndpointSlices()
	again := &sliceRetry{services: core.Services().Lister(), seen: map[string]uint64{}}
	pods := pacedPods{core.Pods(), pace{
		haste: sliceHaste, only: hasAddress, delivered: again.delivered,
		shortest: 5 * time.Millisecond, longest: 50 * time.Millisecond, crowded: 200 * time.Millisecond,
	}}
	c := endpointslice.NewController(ctx, pods, retriedServices{core.Services(), again}, core.Nodes(), slices, endpointsPerSlice, client, 0)
	if _, err := slices.Informer().AddEventHandler(again); err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

// sliceHaste lets a Service know at once of endpoints that may be used or may
// not be used any more; others can wait for company.
func sliceHaste(old, cur *corev1.Pod) haste {
	switch {
	case cur == nil && old.DeletionTimestamp == nil,
		cur != nil && old != nil && old.DeletionTimestamp == nil && cur.DeletionTimestamp != nil:
		return soon
	case cur == nil, cur.DeletionTimestamp != nil:
		return whenever // it is not used any more already
	case !hasAddress(cur): // not passed on
		return now
	case old == nil, !hasAddress(old), ready(old) != ready(cur), !maps.Equal(old.Labels, cur.Labels):
		if ready(old) || ready(cur) {
			return soon
		}
		return later
	}
	return now // the controller sees for itself that nothing has changed
}

// hasAddress tells whether a pod can be an endpoint.
func hasAddress(pod *corev1.Pod) bool { return len(pod.Status.PodIPs) > 0 }

func ready(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func newEndpointSliceMirroring(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("endpointslicemirroring-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c := endpointslicemirroring.NewController(ctx, core.Endpoints(), e.informers.Discovery().V1().EndpointSlices(), core.Services(),
		1000, client, 0)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newEndpoints(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("endpoint-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c := endpoint.NewEndpointController(ctx, core.Pods(), core.Services(), core.Endpoints(), client, endpointsBatch)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}
