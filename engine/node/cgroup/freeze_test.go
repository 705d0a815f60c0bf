package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestFreezingOnCgroupV2(t *testing.T) {
	g := unified(t, map[string]string{"gantry-test/c/cgroup.freeze": "0", "gantry-test/c/cgroup.events": "populated 1\nfrozen 1\n"})
	state := func() string {
		text, err := os.ReadFile(filepath.Join(g.unified, "gantry-test/c/cgroup.freeze"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := g.Freeze(t.Context(), "/gantry-test/c"); err != nil || state() != "1" {
		t.Errorf("frozen: %v, %q", err, state())
	}
	if err := g.Thaw("/gantry-test/c"); err != nil || state() != "0" {
		t.Errorf("thawed: %v, %q", err, state())
	}
	if err := os.WriteFile(filepath.Join(g.unified, "gantry-test/c/cgroup.events"), []byte("populated 1\nfrozen 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Freeze(over, "/gantry-test/c"); err == nil || state() != "0" {
		t.Errorf("what does not stand still is let go again: %v, %q", err, state())
	}
}
