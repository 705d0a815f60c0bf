package shimd

import (
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// successor is a shim that finds what an earlier one left in a directory.
func successor(t *testing.T) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir(), log: log.New(io.Discard, "", 0), boot: bootID(), containers: map[string]*container{}}
	if err := os.Mkdir(filepath.Join(s.dir, protocol.ContainersDir), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) leave(t *testing.T, id string, r *record, exit *protocol.State) {
	t.Helper()
	if err := os.Mkdir(s.containerDir(id), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stdoutFIFO, stderrFIFO} {
		if err := unix.Mkfifo(filepath.Join(s.containerDir(id), name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r != nil {
		if err := writeJSON(filepath.Join(s.containerDir(id), recordFile), r); err != nil {
			t.Fatal(err)
		}
	}
	if exit != nil {
		if err := writeJSON(filepath.Join(s.containerDir(id), exitFile), exit); err != nil {
			t.Fatal(err)
		}
	}
}

// ended waits for the end of a container.
func (s *Server) ended(t *testing.T, id string) protocol.State {
	t.Helper()
	c, err := s.find(id)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(10 * time.Second):
		t.Fatalf("container %s does not end", id)
	}
	return c.snapshot()
}

func TestASuccessorTakesContainersOver(t *testing.T) {
	s := successor(t)
	child := exec.Command("/bin/sh", "-c", "read x; exit 7")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	alive := record{PID: pid, StartTicks: startTicks(pid), Boot: bootID()}
	another, reboot := alive, alive
	another.StartTicks++
	reboot.Boot = "of another boot"

	s.leave(t, "alive", &alive, nil)
	s.leave(t, "another", &another, nil)
	s.leave(t, "reboot", &reboot, nil)
	s.leave(t, "exited", &alive, &protocol.State{ID: "exited", Phase: protocol.Exited, ExitCode: 3})
	s.leave(t, "half-made", nil, nil)
	if err := s.adopt(); err != nil {
		t.Fatal(err)
	}

	if state := s.ended(t, "exited"); state.ExitCode != 3 {
		t.Errorf("exited before: %+v", state)
	}
	if state := s.ended(t, "another"); state.ExitCode != 255 || !strings.Contains(state.Message, "the shim was killed") {
		t.Errorf("its pid belongs to another process: %+v", state)
	}
	if state := s.ended(t, "reboot"); state.ExitCode != 255 || !strings.Contains(state.Message, "restarted") {
		t.Errorf("from before a restart of the machine: %+v", state)
	}
	if _, err := s.find("half-made"); err == nil {
		t.Error("a start that never finished is held")
	}
	c, err := s.find("alive")
	if err != nil || c.snapshot().Phase != protocol.Running {
		t.Fatalf("the running container is not held: %v", err)
	}
	stdin.Close()
	child.Wait() // the parent must collect it before the kernel tells others
	state := s.ended(t, "alive")
	if state.ExitCode != 7 && !(state.ExitCode == 255 && state.Message != "") {
		t.Errorf("state %+v: neither the exit code nor that it was lost", state)
	}
	var saved protocol.State
	if found, err := readJSON(filepath.Join(c.dir, exitFile), &saved); err != nil || !found || saved.ExitCode != state.ExitCode {
		t.Errorf("on disk is %+v, %v", saved, err)
	}
}
