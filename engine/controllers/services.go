package controllers

import (
	"context"
	"time"

	"k8s.io/kubernetes/pkg/controller/endpoint"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/endpointslicemirroring"
)

const (
	endpointsPerSlice = 100
	// Endpoints are for old clients only and are rewritten as a whole with
	// each change, so several changes are put together.
	endpointsBatch = 500 * time.Millisecond
)

func newEndpointSlice(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("endpointslice-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c := endpointslice.NewController(ctx, core.Pods(), core.Services(), core.Nodes(), e.informers.Discovery().V1().EndpointSlices(),
		endpointsPerSlice, client, 0)
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
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
