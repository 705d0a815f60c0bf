// Package metrics serves the resource metrics API (metrics.k8s.io/v1beta1), which
// `kubectl top` and the HorizontalPodAutoscaler ask, and the custom metrics API
// (custom.metrics.k8s.io), in which Services have the requests that the gateway has seen, and the
// external one (external.metrics.k8s.io), where they can be added up by the Services' names.
//
// It reads what nodes say at /metrics/resource, through the API server's node proxy, and what
// gateways say of the demand (internal/demand); it lists nodes and pods when asked about them.
// It writes nothing.
//
// Guarantees: nothing is read from nodes while nobody asks; a figure is never older than two
// readings; a container's CPU is that of the time between two readings, or since its start.
//
// It is an extension API server: registered by APIServices, reached through the API server only.
// All it gets is a *rest.Config and the address of the gateways, so it runs on any cluster.
package metrics
