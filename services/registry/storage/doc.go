// Package storage keeps the registry's blobs, manifests and tags in files, in the
// layout of the CNCF distribution registry (docs/formats/registry.md): a directory
// that such a registry filled can be used as it is.
//
// Guarantees: a blob or manifest is visible only when it is whole and matches its
// digest. What [Store.PutManifest] returned for is on disk, with everything that
// the manifest refers to here. [Store.Collect] runs beside everything else and
// removes nothing that is needed by what is there or is being pushed. No lock is
// held while bytes arrive from a client. All methods may be called concurrently,
// by one process per directory.
//
// Callers may not assume that a blob stays unless a manifest of the same repository
// refers to it, nor that deleting frees space before [Store.Collect]. Who may do
// what is not known here.
//
// Only services/registry imports this package.
package storage
