// Package image keeps the container images of one machine: it pulls them from
// registries (the OCI Distribution Specification), stores their content
// verified by digest, unpacks their layers into overlay snapshots, and gives
// each container a writable root directory on top of one.
//
// It is containerd's content store, metadata database, snapshotter and
// resolver used as libraries, without a daemon. Everything lives under
// DataDir/images; mounted root directories are under DataDir/run/rootfs and
// are the only thing a reboot takes away.
//
// Guarantees: a pull that returned is durable, files included; a pull that
// failed or was interrupted leaves nothing a collection does not remove;
// content in use by a pull, an image or a container's root is never collected;
// several pulls of one name at once cost one download. An image is what its
// digest says, or it is refused.
//
// Callers may not assume that a tag still means the digest it meant before,
// nor open the directory from two processes: the database is locked.
//
// Only engine/node, engine/dockerapi and cmd/gantry import this package.
package image
