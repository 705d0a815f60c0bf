package shimd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reaperEnv makes this test program a process of its own that reaps: within the
// tests it would take the children of others.
const reaperEnv = "GANTRY_TEST_REAPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(reaperEnv); dir != "" {
		os.Exit(reaperMain(dir))
	}
	os.Exit(m.Run())
}

// reaperMain ends with 0 when the exit codes of processes that commands leave
// behind arrive, and each only at the command that announced it.
func reaperMain(dir string) int {
	r, err := newReaper()
	if err != nil {
		return 10
	}
	first, pid, err := leave(r, dir, 7)
	if err != nil || <-first.claim(pid) != 7 {
		return 11
	}
	_, unclaimed, err := leave(r, dir, 8)
	if err != nil {
		return 12
	}
	later, _, err := leave(r, dir, 9)
	if err != nil {
		return 13
	}
	select {
	case <-later.claim(unclaimed): // as if the kernel had used the number again
		return 14
	default:
	}
	first.end()
	later.end()
	return 0
}

// leave runs a command that leaves a process behind, and returns when that has
// ended too and nobody has claimed it.
func leave(r *reaper, dir string, code int) (*birth, int, error) {
	gate := filepath.Join(dir, "gate"+strconv.Itoa(code))
	pidFile := filepath.Join(dir, "pid"+strconv.Itoa(code))
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		return nil, 0, err
	}
	// The gate keeps the process alive until its parent, which would collect it, is gone.
	script := "(read x < " + gate + "; exit " + strconv.Itoa(code) + ") & echo $! > " + pidFile
	b, err := r.command("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		return nil, 0, err
	}
	<-b.exit
	pid, err := readPID(pidFile)
	if err != nil {
		return nil, 0, err
	}
	if err := os.WriteFile(gate, []byte("\n"), 0); err != nil {
		return nil, 0, err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		r.mu.Lock()
		_, ended := r.early[pid]
		r.mu.Unlock()
		if ended {
			return b, pid, nil
		}
	}
	return nil, 0, os.ErrDeadlineExceeded
}

func TestReaperGivesExitCodesToThoseWhoseTheyAre(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), reaperEnv+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the reaping process ended with %v (step %s): %s", err, strconv.Itoa(cmd.ProcessState.ExitCode()), out)
	}
}
