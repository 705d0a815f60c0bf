package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
)

// TestWhatTheMachineDidWrongIsTriedAgain, and what the Dockerfile did wrong is not.
func TestWhatTheMachineDidWrongIsTriedAgain(t *testing.T) {
	for text, again := range map[string]bool{
		"rpc error: code = Unavailable desc = error reading from server: EOF":                             true,
		"start build worker: it did not answer within 30s":                                                true,
		"failed to push 127.0.0.1:5000/a/b:1: dial tcp 127.0.0.1:5000: connect: connection refused":       true,
		"Dockerfile:3: RUN make: process \"/bin/sh -c make\" did not complete successfully: exit code: 2": false,
		"process \"/bin/sh -c curl x\" did not complete successfully: exit code: 7: connection refused":   false,
		"Dockerfile:2: COPPY a b: unknown instruction: COPPY":                                             false,
	} {
		var transient interface{ Transient() bool }
		if got := errors.As(worthRetrying(errors.New(text)), &transient); got != again {
			t.Errorf("%s: again %v", text, got)
		}
	}
	refused := fmt.Errorf("ask the registry: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	var transient interface{ Transient() bool }
	if !errors.As(worthRetrying(refused), &transient) || !errors.Is(worthRetrying(refused), syscall.ECONNREFUSED) {
		t.Error("a registry that does not answer is not worth another try")
	}
}

func TestTheBuildToGoBackTo(t *testing.T) {
	for text, want := range map[string]int64{"12": 12, "shop-12": 12, "0": 0, "-1": 0, "cart-12": 0, "": 0} {
		got, err := buildNumber("shop", text)
		if (err == nil) != (want > 0) || got != want && err == nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
