// Package registry is the built-in image registry: the CNCF distribution
// registry (OCI Distribution Specification 1.1) with its files under one
// directory, as an http.Handler.
//
// docker, podman, skopeo, containerd, cosign and the node push to it and pull
// from it over HTTP; nothing in Gantry takes a shortcut past that. It never
// touches another registry.
//
// Guarantees: what was acknowledged is on disk; uploads are refused before the
// disk is full; collection never removes what a tag or a running push needs.
// Callers may not assume that deleting a tag frees space before [Registry.Collect].
//
// cmd/gantry imports this package. It imports nothing of the engine and no
// other service.
package registry
