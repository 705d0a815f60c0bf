// Package initd is gantry-init: it turns the process that the shim has cloned
// into the first process of a container, or a further process into one that
// runs inside it, as a recipe says.
//
// The program lives for about a millisecond, once for every container, so its
// start counts: it links neither fmt nor encoding/json nor os, and is to be run
// with GOMAXPROCS=1 and GOGC=off. It is executed from a sealed file in memory:
// a container that gets hold of it cannot change what the next one runs
// (CVE-2019-5736 and its kin).
//
// Guarantees: every path of the container is resolved inside its root, links
// of the image lead nowhere else; nothing of the host is open when the
// container's program begins but its three streams; a step that cannot be done
// ends the process with the step, its object and the reason on the control
// socket. Nothing is skipped silently that the recipe asked for.
//
// For most containers all this can be decided in advance: [Flat] turns their recipe
// into a list of system calls, which [FlatProgram], some hundred machine instructions,
// executes without a Go runtime. It gives up where anything is not as expected.
//
// cmd/gantry-init imports it, and engine/node/launch for the flat form.
package initd
