// Package testenv says what a test needs from its host.
//
// A test that needs root, a program or a kernel feature asks for it first. On a
// developer's machine without it the test is skipped with the reason; in CI
// (environment CI=true) the same lack is a failure, so that a green run always
// means that the test ran. Only tests import this package.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// NeedRoot asks for uid 0, which namespaces, mounts and cgroups need.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "needs root: run the tests as root")
	}
}

// NeedProgram asks for an executable on the PATH. Remedy is the Debian package
// that has it.
func NeedProgram(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		lack(t, "needs "+name+": apt-get install "+debianPackage)
	}
	return path
}

// NeedContainers asks for all that running containers takes.
func NeedContainers(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	NeedProgram(t, "runc", "runc")
	if _, err := os.Stat("/proc/sys/net"); err != nil {
		lack(t, "needs /proc/sys/net: run outside a locked-down container")
	}
}

// LongRunning skips under `go test -short`.
func LongRunning(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long; left out with -short")
	}
}

func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("in CI this must run: " + why)
	}
	t.Skip(why)
}
