// Nothing that the init does depends on how many processors it may use, and
// finding out takes time.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command gantry-init becomes the processes of containers. It is embedded in
// gantry, which has the shim execute it for every container and every process
// that enters one; nobody needs to call it by hand. It links only the standard
// library and golang.org/x/sys, and little of them, to start at once.
package main

import "github.com/gantryhq/gantry/engine/shim/initd"

func main() { initd.Main() }
