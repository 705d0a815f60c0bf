// Package sandbox confines the steps of a build, so that a Dockerfile from
// somebody else can harm nothing but its own image.
//
// A step runs in a user namespace whose root is nobody on the machine, in a
// network namespace that leads only to the outside (see [Config.Uplinks]) and to
// nothing on this machine, and in a control group with limits for all steps
// together; besides it has the default seccomp profile and capabilities of
// BuildKit, which are those of docker. Files keep the owners of the image: what
// a step sees of layers, cache mounts and secrets are views of them whose owners
// the kernel maps, so nothing of a user namespace is on the disk.
//
// Where the kernel or the file system cannot map owners, steps run without a
// user namespace and the log says so; everything else holds.
//
// What it makes in the kernel bears [Config.Name] or begins with its hash:
// interface pairs, an nftables table, control groups, mounts below /run/NAME.
// [Sandbox.Close] removes it, and [Remove] what a killed process left. Imported by
// services/build only, and used in a process of its own.
package sandbox
