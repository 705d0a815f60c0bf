// Package scale adjusts the number of replicas of workloads to what is asked of them, as
// ScalePolicies (gantry.dev/v1alpha1) say.
//
// Watches: ScalePolicy, Service, HorizontalPodAutoscaler; the demand that gateways tell of
// (internal/demand). Asks now and then for: the target and its scale subresource, PodMetrics,
// Prometheus. Writes: the scale subresource of targets, the status of ScalePolicies, events.
//
// Guarantees: a target is scaled by one policy at most; what cannot be known takes no replica
// away; without this service everything stays as it is. The gateway lets requests wait by itself,
// for the Services in a policy's status.
//
// All it gets is a *rest.Config and the address of the gateways, so it runs on any cluster.
package scale
