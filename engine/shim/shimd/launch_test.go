package shimd

import (
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAProgramIsNotCoveredByWhatItIsGiven executes a program by its descriptor with
// the files that it is given at any numbers, as they are when much is launched at
// once.
func TestAProgramIsNotCoveredByWhatItIsGiven(t *testing.T) {
	program, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for number := 290; number < 320; number++ {
		high, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, number)
		if err != nil {
			t.Fatal(err)
		}
		files := []uintptr{null.Fd(), null.Fd(), 1, 2, 0, uintptr(high)} // some must move
		executable, err := clearOf(files, program)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(executable), []string{"true"}, &syscall.ProcAttr{Files: files})
		unix.Close(executable)
		unix.Close(high)
		if err != nil {
			t.Fatalf("with a file at %d, the program at %d: %v", high, executable, err)
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != unix.ECHILD && (err != nil || status.ExitStatus() != 0) { // a reaper was faster
			t.Errorf("with a file at %d: %v, %v", high, status, err)
		}
	}
}
