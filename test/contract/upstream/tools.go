//go:build tools

// Package upstream names the programs that the contract is compared with, a real API server with its store and
// its controllers, so that their versions and checksums are held by this module's own go.mod and not by the product's.
package upstream

import (
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)
