// Package gateway is the platform's one way in: a reverse proxy that follows
// Gateway API objects and Ingresses. It runs as a process of its own, so that
// it keeps serving while the rest of Gantry restarts.
//
// Its parts are kept apart: package translate turns objects into a table,
// package route answers look-ups in the table, package controller watches the
// API and writes statuses, package proxy is the data plane. What policies demand is
// decided by package guard; packages login, cache, compress, audit and logfile do
// what has to wait, to change bodies or to write. This package puts
// them together (Run) and installs what they need in the API (EnsureCRDs,
// EnsureDefaults).
//
// It follows the Gateway API v1 (https://gateway-api.sigs.k8s.io), standard
// channel without UDPRoute, and networking.k8s.io/v1 for Ingress. Package acme
// gets certificates for both. The only thing it knows of the platform
// is a *rest.Config, so it serves any Kubernetes cluster alike.
//
// Callers may not assume that configuration which the API has accepted is
// served: the conditions in the objects' status say so. Imported by cmd/gantry
// only.
package gateway

//go:generate go run -tags generate ./crds/generate crds
