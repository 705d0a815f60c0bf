package node

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodBecomesReadyAndLeavesNothingWhenDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}, v1.Container{Name: "b"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)

		p := r.pod("web")
		if p.Status.Phase != v1.PodRunning || condition(p, v1.PodReady) != v1.ConditionTrue {
			t.Fatalf("the pod is %s, Ready %s; want Running and ready: %+v", p.Status.Phase, condition(p, v1.PodReady), p.Status)
		}
		if got := r.driver.started(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("containers were started in order %v", got)
		}
		if p.Status.PodIP != "10.244.0.10" || p.Status.HostIP != "192.0.2.1" || p.Status.QOSClass != v1.PodQOSBestEffort {
			t.Errorf("addresses or class are wrong: %s, %s, %s", p.Status.PodIP, p.Status.HostIP, p.Status.QOSClass)
		}

		r.remove("web", 30)
		time.Sleep(5 * time.Second)
		if r.pod("web") != nil {
			t.Error("the pod object is still there")
		}
		if n := r.driver.count(); n != 0 || r.net.attached() != 0 {
			t.Errorf("%d containers and %d networks are left", n, r.net.attached())
		}
		for _, dir := range []string{r.node.paths.pods(), r.node.paths.sandboxes(), r.node.paths.logs()} {
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%s is not empty: %v", dir, left)
			}
		}
	})
}

func TestInitContainersRunInOrderBeforeTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := aPod("web", v1.Container{Name: "main"})
		always := v1.ContainerRestartPolicyAlways
		pod.Spec.InitContainers = []v1.Container{
			{Name: "first", Image: "app:1"},
			{Name: "sidecar", Image: "app:1", RestartPolicy: &always},
			{Name: "second", Image: "app:1"},
		}
		r := newRig(t)
		defer func() { r.stop() }()
		r.driver.behave["first"] = behaviour{exitAfter: 2 * time.Second}
		r.driver.behave["second"] = behaviour{exitAfter: 2 * time.Second}
		r.create(pod)
		time.Sleep(time.Second)
		p := r.pod("web")
		if p.Status.Phase != v1.PodPending || p.Status.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
			t.Errorf("while initializing: %s %+v", p.Status.Phase, p.Status.ContainerStatuses[0].State)
		}
		time.Sleep(10 * time.Second)
		if got := r.driver.started(); !slices.Equal(got, []string{"first", "sidecar", "second", "main"}) {
			t.Errorf("order of start: %v", got)
		}
		if p = r.pod("web"); condition(p, v1.PodReady) != v1.ConditionTrue {
			t.Errorf("not ready: %+v", p.Status)
		}
		r.driver.behave["main"] = behaviour{onTerm: time.Second}
		r.remove("web", 30)
		time.Sleep(10 * time.Second)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"main:15", "sidecar:15"}) {
			t.Errorf("order of stop: %v", got)
		}
	})
}

func TestCrashLoopBacksOffExponentially(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		r.driver.behave["a"] = behaviour{exitAfter: time.Second, exitCode: 3}
		r.create(aPod("web", v1.Container{Name: "a"}))
		// Runs at 0, 1 (at once), then 10, 20, 40 s after the exit before.
		time.Sleep(6 * time.Second)
		if n := len(r.driver.started()); n != 2 {
			t.Fatalf("%d starts after 6 s, want 2", n)
		}
		cs := r.pod("web").Status.ContainerStatuses[0]
		if cs.State.Waiting == nil || cs.State.Waiting.Reason != "CrashLoopBackOff" || cs.RestartCount != 1 {
			t.Errorf("waiting for restart: %+v", cs)
		}
		if term := cs.LastTerminationState.Terminated; term == nil || term.ExitCode != 3 || term.Reason != "Error" {
			t.Errorf("last state: %+v", cs.LastTerminationState)
		}
		for _, step := range []struct {
			wait   time.Duration
			starts int
		}{{8 * time.Second, 3}, {20 * time.Second, 4}, {41 * time.Second, 5}} {
			time.Sleep(step.wait)
			if n := len(r.driver.started()); n != step.starts {
				t.Errorf("%d starts, want %d", n, step.starts)
			}
		}
		if n := r.driver.count(); n > 2 {
			t.Errorf("%d ended containers are kept, want at most 2", n)
		}
	})
}

func TestJobPodSucceedsOrFails(t *testing.T) {
	for name, tt := range map[string]struct {
		policy v1.RestartPolicy
		b      behaviour
		phase  v1.PodPhase
		reason string
	}{
		"completes":          {v1.RestartPolicyNever, behaviour{exitAfter: time.Second}, v1.PodSucceeded, "Completed"},
		"fails":              {v1.RestartPolicyNever, behaviour{exitAfter: time.Second, exitCode: 2}, v1.PodFailed, "Error"},
		"runs out of memory": {v1.RestartPolicyNever, behaviour{exitAfter: time.Second, exitCode: 137, oom: true}, v1.PodFailed, "OOMKilled"},
		"OnFailure, success": {v1.RestartPolicyOnFailure, behaviour{exitAfter: time.Second}, v1.PodSucceeded, "Completed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer func() { r.stop() }()
				r.driver.behave["a"] = tt.b
				pod := aPod("job", v1.Container{Name: "a"})
				pod.Spec.RestartPolicy = tt.policy
				r.create(pod)
				time.Sleep(5 * time.Second)
				p := r.pod("job")
				if p.Status.Phase != tt.phase {
					t.Fatalf("phase %s, want %s", p.Status.Phase, tt.phase)
				}
				if got := p.Status.ContainerStatuses[0].State.Terminated.Reason; got != tt.reason {
					t.Errorf("reason %s, want %s", got, tt.reason)
				}
				if len(r.driver.started()) != 1 || r.driver.count() != 0 || r.net.attached() != 0 {
					t.Errorf("starts %v, left %d containers, %d networks", r.driver.started(), r.driver.count(), r.net.attached())
				}
			})
		})
	}
}

func TestStubbornContainerIsKilledAfterItsGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		r.driver.behave["a"] = behaviour{onTerm: -1}
		r.create(aPod("web", v1.Container{Name: "a"}))
		time.Sleep(time.Second)
		r.remove("web", 30)
		time.Sleep(29 * time.Second)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Fatalf("signals within the grace period: %v", got)
		}
		time.Sleep(2 * time.Second)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15", "a:9"}) || r.pod("web") != nil {
			t.Errorf("signals after it: %v; pod there: %v", got, r.pod("web") != nil)
		}
	})
}

func TestNewProcessAdoptsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		pod := aPod("web", v1.Container{Name: "a", ReadinessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 10, TimeoutSeconds: 1}})
		pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: "app:1"}}
		r.driver.behave["init"] = behaviour{exitAfter: time.Second}
		r.create(pod)
		time.Sleep(3 * time.Second)
		before := r.pod("web").Status
		if condition(r.pod("web"), v1.PodReady) != v1.ConditionTrue {
			t.Fatalf("not ready before: %+v", before)
		}
		for range 3 {
			r.stop()
			r.start()
			time.Sleep(2 * time.Second)
		}
		if got := r.driver.started(); !slices.Equal(got, []string{"init", "a"}) {
			t.Errorf("restarts of the process started containers: %v", got)
		}
		after := r.pod("web").Status
		if !sameStatus(&before, &after) {
			t.Errorf("status changed:\n%+v\n%+v", before, after)
		}
		// It ends while nobody looks.
		r.stop()
		r.driver.end(r.driver.spec("a").ID, 1, false)
		<-r.driver.events
		r.start()
		time.Sleep(2 * time.Second)
		if cs := r.pod("web").Status.ContainerStatuses[0]; cs.RestartCount != 1 || cs.State.Running == nil {
			t.Errorf("the exit was missed: %+v", cs)
		}
	})
}

func TestMissingImageIsToldAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		r.images.missing["app:9"] = errors.New("registry not reachable")
		r.create(aPod("web", v1.Container{Name: "a", Image: "app:9"}))
		time.Sleep(time.Second)
		if w := r.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ErrImagePull" {
			t.Errorf("after the first failure: %+v", w)
		}
		time.Sleep(3 * time.Second)
		if w := r.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImagePullBackOff" {
			t.Errorf("in back-off: %+v", w)
		}
		r.images.mu.Lock()
		r.images.missing["app:9"] = nil
		r.images.mu.Unlock()
		time.Sleep(8 * time.Second)
		if p := r.pod("web"); p.Status.Phase != v1.PodRunning {
			t.Errorf("phase %s after the registry came back", p.Status.Phase)
		}
	})
}

func TestRefusedImageIsToldAndNeverRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.stop() }()
		r.want("app:1", errors.New("nobody signed it"))
		r.create(aPod("web", v1.Container{Name: "a", Image: "app:1"}))
		time.Sleep(time.Second)
		if w := r.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImageRefused" || w.Message != "nobody signed it" {
			t.Errorf("waiting: %+v", w)
		}
		time.Sleep(time.Hour)
		if told := r.events("web"); !strings.Contains(told, "ImageRefused: nobody signed it") || strings.Contains(told, "Created") {
			t.Errorf("events: %s", told)
		}
		r.want("app:1", nil)
		time.Sleep(restartDelayMax)
		if p := r.pod("web"); p.Status.Phase != v1.PodRunning {
			t.Errorf("phase %s after it was signed", p.Status.Phase)
		}
		// It runs on when it would be refused again; a restart is a new start.
		r.want("app:1", errors.New("not any more"))
		time.Sleep(time.Minute)
		if cs := r.pod("web").Status.ContainerStatuses[0]; cs.State.Running == nil {
			t.Errorf("a container that runs was touched: %+v", cs.State)
		}
		r.driver.end(r.driver.spec("a").ID, 1, false)
		time.Sleep(time.Minute)
		if w := r.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImageRefused" {
			t.Errorf("after its end: %+v", r.pod("web").Status.ContainerStatuses[0].State)
		}
	})
}

// A container that starts again starts from what its image's tag stands for by then, so that is
// what is asked about.
func TestAMovedTagIsCheckedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a", Image: "app:1"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.want(digest.FromString("evil").String(), errors.New("nobody signed it"))
		r.images.move("app:1", "evil")
		r.driver.end(r.driver.spec("a").ID, 1, false)
		time.Sleep(time.Minute)
		if w := r.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImageRefused" {
			t.Errorf("after the tag moved: %+v", r.pod("web").Status.ContainerStatuses[0].State)
		}
		r.images.move("app:1", "app:1")
		time.Sleep(restartDelayMax)
		if cs := r.pod("web").Status.ContainerStatuses[0]; cs.State.Running == nil {
			t.Errorf("after it moved back: %+v", cs.State)
		}
	})
}

func TestFailingLivenessProbeRestartsTheContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a", LivenessProbe: &v1.Probe{
			ProbeHandler:  v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"false"}}},
			PeriodSeconds: 5, FailureThreshold: 3, TimeoutSeconds: 1,
		}}))
		defer func() { r.stop() }()
		time.Sleep(9 * time.Second)
		if got := r.driver.signalled(); len(got) != 0 {
			t.Fatalf("stopped before three failures: %v", got)
		}
		time.Sleep(3 * time.Second)
		cs := r.pod("web").Status.ContainerStatuses[0]
		if cs.RestartCount != 1 || cs.State.Running == nil {
			t.Errorf("not restarted: %+v", cs)
		}
	})
}

func TestResizeChangesLimitsWithoutRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := func(cpu string) v1.ResourceRequirements {
			return v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}
		}
		r := newRig(t, aPod("web", v1.Container{Name: "a", Resources: limits("1")}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		resize := func(cpu string) {
			p := r.pod("web").DeepCopy()
			p.Spec.Containers[0].Resources = limits(cpu)
			if _, err := r.client.CoreV1().Pods("default").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		resize("2")
		if got := r.driver.updated(); len(got) != 1 || got[0].CPUQuota != 200_000 {
			t.Errorf("limits were set to %+v", got)
		}
		cs := r.pod("web").Status.ContainerStatuses[0]
		if cs.Resources.Limits.Cpu().String() != "2" || cs.RestartCount != 0 {
			t.Errorf("status: %+v", cs)
		}
		r.stop() // the successor resizes what changed meanwhile, and nothing else
		r.start()
		time.Sleep(time.Second)
		resize("3")
		if got := r.driver.updated(); len(got) != 2 || len(r.driver.started()) != 1 {
			t.Errorf("%d updates, starts %v", len(got), r.driver.started())
		}
	})
}

func TestOnlyRootsWithoutContainerAreRemovedAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.stop()
		inUse, orphan, foreign := containerID("web-0000-uid", "a", 0), containerID("gone", "a", 0), "build-cache"
		volume, lost := imageVolumeID("web-0000-uid", "v"), imageVolumeID("gone", "v")
		for _, id := range []string{orphan, foreign, volume, lost} {
			if err := os.MkdirAll(r.images.dir+"/"+id, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(r.node.paths.pod("gone"), 0o755); err != nil {
			t.Fatal(err)
		}
		r.start()
		time.Sleep(time.Second)
		var left []string
		roots, _ := r.images.Roots(t.Context())
		for _, root := range roots {
			left = append(left, root.ID)
		}
		want := []string{inUse, foreign, volume}
		slices.Sort(want)
		if !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
	})
}
