package shimd

import (
	"os/signal"
	"syscall"
	"testing"
)

func TestContainersDoNotInheritIgnoredSignals(t *testing.T) {
	const ofTheCLibrary = 33 // which the Go runtime leaves alone
	signal.Ignore(syscall.SIGUSR2)
	t.Cleanup(func() { signal.Reset(syscall.SIGUSR2) })
	if errno := sigaction(ofTheCLibrary, &kernelAction{handler: ignoreHandler}, nil); errno != 0 {
		t.Fatal(errno)
	}
	ignored := func(n int) bool {
		var action kernelAction
		if errno := sigaction(n, nil, &action); errno != 0 {
			t.Fatal(errno)
		}
		return action.handler == ignoreHandler
	}
	if !ignored(int(syscall.SIGUSR2)) || !ignored(ofTheCLibrary) {
		t.Fatal("the signals are not ignored to begin with")
	}
	acceptSignals()
	for _, n := range []int{int(syscall.SIGUSR2), ofTheCLibrary} {
		if ignored(n) {
			t.Errorf("signal %d would be ignored by containers", n)
		}
	}
}
