//go:build tools

// Package conformance names the upstream programs that measure Gantry, so that their versions and
// checksums are held by this module's own go.mod and not by the product's.
package conformance

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost/netexec"
)
