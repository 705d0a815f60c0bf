// Package driver is the node's container driver. It describes a
// runtime.Container as an OCI specification (package ocispec) and has one of two
// start it under the shim: gantry's own launcher (package launch), or runc or
// another OCI runtime that a handler names. Everything else is the same for both
// and goes straight to the kernel or the shim: exit codes, signals, output,
// statistics, deletion. With an OCI runtime a container costs one run of it, and
// each exec one more; the launcher runs no program but the container's.
//
// Below DIR/run the driver owns containers/<id> (records), bundles/ (a file
// system in memory for what holds secrets), runc/ (the OCI runtime's state) and
// bin/ (the shim), and in the kernel one tree of cgroups named after the data
// directory.
//
// Beyond the guarantees of package runtime, callers may not assume that a
// container's directory or cgroup exists at any given time. With an OCI runtime,
// in a container with a user namespace every directory above Rootfs must be
// searchable by others. Only engine/node and cmd/gantry import this package.
package driver
