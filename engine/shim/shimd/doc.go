// Package shimd is the shim: the one parent process of all containers of a data
// directory. It runs the commands that create containers as a subreaper, so
// that their first processes become its children, and owns what must outlive
// `gantry serve`: log pipes, terminals and exit codes.
//
// It knows nothing of OCI, runc or Kubernetes: a client hands it a command that
// leaves a pid file behind. That keeps it small and lets a shim of an earlier
// release serve a later client.
//
// Guarantees: an exit code is on disk before anyone is told of it; output up to
// the exit is in the log before the exit is published; a full disk or a slow
// reader never stops a container (lines are dropped and counted, a slow reader
// is detached). Output pipes are named, and the container holds both of their
// ends, so that it survives the death of the shim and the next shim reads on.
//
// It links only the standard library and golang.org/x/sys. Only cmd/gantry-shim
// imports it.
package shimd
