package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAHandleKnowsItsProcessAndNoOther(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h, err := Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !h.Alive() {
		t.Error("a running process is not alive")
	}
	stranger := h
	stranger.Start++
	if stranger.Alive() {
		t.Error("a process with another start time is taken for ours")
	}
	if err := stranger.Signal(unix.SIGKILL); err != nil || !h.Alive() {
		t.Errorf("a stranger was signalled (%v)", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a running process = %v", err)
	}
	if err := h.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.Alive() {
		t.Error("a zombie is alive")
	}
	_ = cmd.Wait()
	if err := h.Wait(t.Context()); err != nil {
		t.Errorf("Wait for an ended process = %v", err)
	}
	if err := h.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to an ended process = %v", err)
	}
}

func TestTheZeroHandleIsNoProcess(t *testing.T) {
	var h Handle
	if h.Alive() || h.Wait(t.Context()) != nil || h.Signal(unix.SIGTERM) != nil {
		t.Error("the zero handle is somebody")
	}
	self, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	self.Boot = "another"
	if self.Alive() {
		t.Error("a handle outlives a reboot")
	}
}

// TestANumberThatIsAThreadNow: the kernel gives threads the numbers of processes
// that have gone.
func TestANumberThatIsAThreadNow(t *testing.T) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil || tid == os.Getpid() {
			continue
		}
		h, err := Find(tid)
		if err != nil {
			continue // the thread has ended
		}
		if err := h.Wait(t.Context()); err != nil {
			t.Errorf("wait for a number that is a thread's: %v", err)
		}
		if err := h.Signal(0); err != nil {
			t.Errorf("signal a number that is a thread's: %v", err)
		}
		return
	}
	t.Skip("this process has one thread")
}
