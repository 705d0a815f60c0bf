package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv is set in the copy of the test program that runs in namespaces of its own.
const insideEnv = "GANTRY_NETWORK_TEST_INSIDE"

// TestMain runs the tests a second time, inside fresh network and mount namespaces, so
// that nothing of the host's network is touched. Without root they run here and
// say why they skip.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) == "" && os.Geteuid() == 0 {
		os.Exit(runInside())
	}
	if os.Getenv(insideEnv) != "" {
		if err := prepareInside(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare test namespaces:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests in namespaces:", err)
		return 1
	}
	return 0
}

// prepareInside makes the namespace look like a small host that does not route.
func prepareInside() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts our own: %w", err)
	}
	// A new namespace inherits these from a host on which Gantry may be running.
	// Strict reverse path filtering is what several distributions set.
	for name, value := range map[string]string{
		ipForward: "0", "net.ipv4.conf.all.send_redirects": "1", "net.ipv4.conf.all.rp_filter": "1",
	} {
		if err := (sysctl{name, value}).write(); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
