//go:build tools

// Package conformance runs Gateway API's own conformance suite against an
// instance of Gantry, which `run` beside it starts. It is a module of its own, so
// that what the suite needs stays out of the product's go.mod.
package conformance

import (
	// What the suite's tests send their requests to.
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic"
)
