package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// TestALostShimIsToldOnce: the driver says it again to every process that asks.
func TestALostShimIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		r.create(aPod("web", v1.Container{Name: "a"}))
		time.Sleep(time.Second)
		at := time.Now()
		adopted := func() runtime.State {
			r.driver.mu.Lock()
			defer r.driver.mu.Unlock()
			for _, fc := range r.driver.containers {
				fc.state.AdoptedAt, fc.state.Message = at, "the terminal was lost"
				return fc.state
			}
			t.Fatal("nothing runs")
			return runtime.State{}
		}
		r.driver.events <- adopted()
		r.driver.events <- adopted()
		time.Sleep(time.Second)
		r.stop()
		r.start()
		time.Sleep(time.Second)
		told := r.adoptions(t)
		if len(told) != 1 || told[0].Type != v1.EventTypeWarning || !strings.Contains(told[0].Message, "the terminal was lost") {
			t.Fatalf("events %+v", told)
		}
		if cs := r.pod("web").Status.ContainerStatuses[0]; cs.RestartCount != 0 || cs.State.Running == nil {
			t.Errorf("the container did not run on: %+v", cs)
		}
		at = at.Add(time.Minute)
		r.driver.events <- adopted()
		time.Sleep(time.Second)
		if told := r.adoptions(t); len(told) != 2 {
			t.Errorf("a second loss was not told: %+v", told)
		}
	})
}

func (r *rig) adoptions(t *testing.T) (told []v1.Event) {
	t.Helper()
	all, err := r.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all.Items {
		if e.Reason == "ShimReplaced" {
			told = append(told, e)
		}
	}
	return told
}
