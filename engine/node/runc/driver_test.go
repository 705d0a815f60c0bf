package runc

import (
	"strings"
	"testing"
)

func TestContainerRunsToItsEnd(t *testing.T) {
	h := newHost(t)
	c := h.container("echo out; echo err >&2; printf partial; exit 7")
	out, state := h.run(c)
	if out != "out\nerr\npartial" && out != "err\nout\npartial" {
		t.Errorf("output %q", out)
	}
	if state.ExitCode != 7 || state.OOMKilled || state.FinishedAt.Before(state.StartedAt) {
		t.Errorf("state %+v", state)
	}
	if state.PodUID != "pod-"+c.ID || state.Labels["name"] != c.ID {
		t.Errorf("labels are lost: %+v", state)
	}
	if err := h.driver.Remove(h.context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.output(c), "out\n") {
		t.Error("the log must outlive the container")
	}
}
