// Package launch starts containers without an OCI runtime: the shim clones a
// process and gantry-init turns it into what an OCI specification describes.
// See packages shim, recipe and initd for the three who do it.
//
// A [Launcher] takes a specs.Spec as runc does. Prepare translates it; Start then
// makes the control group and everything else and runs the program. Create does
// the same up to the execution, for which it waits until Release. Exec starts a
// further process inside; it needs the [Prepared.Door] of the container.
// The caller owns the container's directory below DIR/containers, which the
// shim uses, and afterwards ends the processes and removes the group (package
// cgroup) and the directory.
//
// Guarantees: what a specification asks for is done or refused, never left out;
// secrets of the environment are not written to any file; after an error no
// process is left that is not in the container's control group. Needs Linux
// 5.12; on an older kernel [New] says so.
//
// Only engine/node and its tests import it.
package launch
