package shimd

import (
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// memoryEvents stands in for a file of cgroup v2, which the test host may not have.
func memoryEvents(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory.events")
	write(t, path, "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n")
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestKillsAreNoticedOnCgroupV2(t *testing.T) {
	s := &Server{dir: t.TempDir(), log: log.New(os.Stderr, "", 0), subscribers: map[chan protocol.State]struct{}{}}
	events := make(chan protocol.State, 2)
	s.subscribers[events] = struct{}{}
	watched := func(id string) (*container, string) {
		c, path := s.newContainer(id), memoryEvents(t)
		c.state.Phase = protocol.Running
		c.oom = s.watchOOM(c, path)
		return c, path
	}
	calm, calmFile := watched("calm")
	killed, killedFile := watched("killed")
	write(t, calmFile, "oom 0\noom_kill 0\n")
	write(t, killedFile, "oom 1\noom_kill 2\n")
	select {
	case state := <-events:
		if state.ID != "killed" || !state.OOMKilled {
			t.Errorf("event %+v", state)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	if calm.snapshot().OOMKilled {
		t.Error("a container without a kill is marked")
	}
	killed.oom.stop()
	calm.oom.stop()
	if len(s.oomV2.watched) > 0 {
		t.Errorf("%d watches are left", len(s.oomV2.watched))
	}
}

func TestCountersOfBothCgroupVersions(t *testing.T) {
	v1 := filepath.Join(t.TempDir(), "memory.oom_control")
	write(t, v1, "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
	if n := oomKills(v1); n != 4 {
		t.Errorf("%d kills, want 4", n)
	}
	if n := oomKills(memoryEvents(t)); n != 0 {
		t.Errorf("%d kills, want 0", n)
	}
	if n := oomKills("/no/such/file"); n != 0 {
		t.Errorf("%d kills in a file that is gone", n)
	}
}
