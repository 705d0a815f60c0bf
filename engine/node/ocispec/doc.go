// Package ocispec describes a container in the terms of the OCI runtime
// specification 1.x: the one description that every way of starting it takes,
// so that they can be compared.
//
// Defaults that Kubernetes leaves to the runtime are containerd's: capabilities,
// seccomp, masked paths, AppArmor. Only engine/node imports it.
package ocispec
