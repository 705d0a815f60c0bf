package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestAMachineThatGoesDownStopsItsPodsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := aPod("web", v1.Container{Name: "main"}, v1.Container{Name: "deaf"})
		always := v1.ContainerRestartPolicyAlways
		pod.Spec.InitContainers = []v1.Container{{Name: "sidecar", Image: "app:1", RestartPolicy: &always}}
		r := newRig(t)
		defer func() { r.stop() }()
		r.driver.behave["main"] = behaviour{onTerm: time.Second}
		r.driver.behave["deaf"] = behaviour{onTerm: -1}
		r.create(pod)
		time.Sleep(5 * time.Second)
		starts := len(r.driver.started())

		began := time.Now()
		if err := r.node.Halt(t.Context(), 7*time.Second); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 7*time.Second || took > 10*time.Second {
			t.Errorf("containers were stopped after %v, the pod's grace period is 30 s and the limit 7 s", took)
		}
		got := r.driver.signalled()
		if len(got) != 4 || !slices.Contains(got[:2], "main:15") || !slices.Contains(got[:2], "deaf:15") || got[2] != "deaf:9" || got[3] != "sidecar:15" {
			t.Errorf("order of stop: %v", got)
		}
		time.Sleep(time.Minute)
		if n := len(r.driver.started()); n != starts {
			t.Errorf("%d containers were started while the machine went down", n-starts)
		}
		p := r.pod("web")
		if p.Status.Phase != v1.PodRunning || p.DeletionTimestamp != nil {
			t.Errorf("the pod is %s: it must come back", p.Status.Phase)
		}
		if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 143 {
			t.Errorf("the end of a container is told as %+v", p.Status.ContainerStatuses[0].State)
		}
	})
}
