// Package runc is the compatible container driver: it turns a
// runtime.Container into an OCI bundle (runtime-spec 1.x) and has runc, or
// another OCI runtime named by a handler, start it under the shim.
//
// The runtime is used for what only it can do: creating the container and
// entering it. Everything else goes straight to the kernel or the shim: exit
// codes, signals, output, statistics and, for runc itself, deletion. One
// container costs one run of the runtime.
//
// Below DIR/run the driver owns containers/<id> (bundle, pipes, records),
// runc/ (the runtime's state) and bin/ (the shim), and in the kernel one tree
// of cgroups named after the data directory. It mounts nothing itself.
//
// Beyond the guarantees of package runtime, callers may not assume that a
// container's directory or cgroup exists at any given time. In a container with
// a user namespace every directory above Rootfs must be searchable by others.
// Only engine/node and cmd/gantry import this package.
package runc
