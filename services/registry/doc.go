// Package registry is the built-in image registry: the OCI Distribution Specification
// 1.1 as an http.Handler over files in one directory (package storage).
//
// docker, podman, skopeo, containerd, cosign, BuildKit and the node push to it and pull
// from it over HTTP.
//
// Guarantees: a manifest that was acknowledged is on disk with everything it refers to
// here; content is served only when it is whole and matches its digest; what a request
// was refused for leaves nothing behind; uploads are refused before the disk is full;
// collection goes on beside pushes and removes nothing that a tag, a workload or a
// running push needs. Callers may not assume that deleting frees space before
// [Registry.Collect].
//
// cmd/gantry imports this package. It imports nothing of the engine and no
// other service.
package registry
