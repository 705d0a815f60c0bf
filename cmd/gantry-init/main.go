// Command gantry-init becomes the processes of containers. It is embedded in
// gantry, which has the shim execute it for every container and every process
// that enters one; nobody needs to call it by hand. It links only the standard
// library and golang.org/x/sys, and little of them, to start at once.
package main

// One core less to ask for: what the limits are does not matter to a process
// that has one thread of work for a millisecond.
//go:debug containermaxprocs=0

import "github.com/gantryhq/gantry/engine/shim/initd"

func main() { initd.Main() }
