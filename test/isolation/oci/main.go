// Command oci is an OCI runtime command line over Gantry's own launcher: create,
// start, state, kill and delete on a bundle, as runc has them. It exists so that
// the validation suite of opencontainers/runtime-tools can be run on the code that
// starts Gantry's containers; nothing else uses it.
//
// The container is made by package launch under the shim, exactly as the driver
// has it made. Only what the driver does differently is here: a bundle's relative
// paths, state on disk, and a log that becomes the caller's standard output once
// the container has stopped. The directory of the environment variable
// GANTRY_OCI_ROOT belongs to it; GANTRY_OCI_SHIM and GANTRY_OCI_INIT are the
// programs, by default the embedded ones.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("a command is needed: create, start, state, kill, delete or shutdown")
	}
	r, err := open(os.Getenv("GANTRY_OCI_ROOT"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := args[0]
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	bundle := flags.String("bundle", ".", "directory of config.json")
	pidFile := flags.String("pid-file", "", "file for the pid of the first process")
	force := flags.Bool("force", false, "delete a container that runs")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if name == "shutdown" {
		return r.shutdown(ctx)
	}
	id := flags.Arg(0)
	if !validID(id) {
		return fmt.Errorf("container id %q: letters, digits, dots, dashes and underscores are needed", id)
	}
	switch name {
	case "create":
		return r.create(ctx, id, *bundle, *pidFile)
	case "start":
		return r.start(ctx, id)
	case "state":
		return r.print(ctx, id)
	case "kill":
		return r.kill(ctx, id, flags.Arg(1))
	case "delete":
		return r.delete(ctx, id, *force)
	}
	return fmt.Errorf("command %q is unknown", name)
}

func validID(id string) bool {
	for _, c := range id {
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return id != "" && id != "." && id != ".." && len(id) < 100
}
