package main

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/process"
)

// listenError explains why nothing can listen at an address: who has the port, and which
// flag chooses another one.
func listenError(err error, address, flag string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return hint.Wrap(fmt.Errorf("listen on %s: %w", address, err), "choose another address with --%s", flag)
	}
	who := cmp.Or(process.Listening(address), "another program")
	return hint.Wrap(fmt.Errorf("listen on %s: %s has this port", address, who), "end that program, or choose another port with --%s", flag)
}
