// Command gantry-shim is the one parent process of all containers of a data
// directory (serve) and the first process of shared pid namespaces (pause). It
// is embedded in gantry, which starts it; nobody needs to call it by hand. It
// links only the standard library and golang.org/x/sys, to stay small.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/gantryhq/gantry/engine/shim/shimd"
)

const usage = `usage:
  gantry-shim serve --dir DIR   hold the containers below DIR
  gantry-shim pause             reap processes until terminated
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	switch os.Args[1] {
	case "serve":
		flags := flag.NewFlagSet("serve", flag.ExitOnError)
		dir := flags.String("dir", "", "directory of the socket and of the containers")
		flags.Parse(os.Args[2:])
		if *dir == "" || flags.NArg() > 0 {
			fmt.Fprint(os.Stderr, usage)
			os.Exit(2)
		}
		if err := shimd.Serve(*dir); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	case "pause":
		shimd.Pause()
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}
