package node

import (
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPodStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pod    *v1.Pod
		change []func(*view)
		phase  v1.PodPhase
		a      string // state of container a: "running", or the reason it waits or ended
		ready  v1.ConditionStatus
	}{
		{"being created", twoContainers(), nil, v1.PodPending, "ContainerCreating", v1.ConditionFalse},
		{"all run", twoContainers(), []func(*view){running("a"), running("b")}, v1.PodRunning, "running", v1.ConditionTrue},
		{"one not ready", twoContainers(), []func(*view){running("a"), running("b"), func(v *view) { v.Containers["a"].Ready = false }}, v1.PodRunning, "running", v1.ConditionFalse},
		{"one still to start", twoContainers(), []func(*view){running("a")}, v1.PodPending, "running", v1.ConditionFalse},
		{"about to be restarted", twoContainers(), []func(*view){ended("a", 1), running("b")}, v1.PodRunning, "Error", v1.ConditionFalse},
		{"in back-off", twoContainers(), []func(*view){ended("a", 1), running("b"), func(v *view) {
			v.Containers["a"].Restart = restartDelay{Delay: 10 * time.Second, At: noon}
		}}, v1.PodRunning, "CrashLoopBackOff", v1.ConditionFalse},
		{"config missing", twoContainers(), []func(*view){running("b"), func(v *view) {
			v.Containers["a"].Create = createView{attempt: attempt{Err: errors.New("no")}, Reason: "CreateContainerConfigError"}
		}}, v1.PodPending, "CreateContainerConfigError", v1.ConditionFalse},
		{"initializing", withInit(twoContainers(), "", "i"), []func(*view){running("i")}, v1.PodPending, "PodInitializing", v1.ConditionFalse},
		{"init failed for good", withPolicy(v1.RestartPolicyNever, withInit(twoContainers(), "", "i")), []func(*view){ended("i", 1)}, v1.PodFailed, "PodInitializing", v1.ConditionFalse},
		{"done", withPolicy(v1.RestartPolicyNever, twoContainers()), []func(*view){ended("a", 0), ended("b", 0)}, v1.PodSucceeded, "Completed", v1.ConditionFalse},
		{"done, one failed", withPolicy(v1.RestartPolicyNever, twoContainers()), []func(*view){ended("a", 0), ended("b", 2)}, v1.PodFailed, "Completed", v1.ConditionFalse},
		{"done but for a sidecar", withPolicy(v1.RestartPolicyNever, withInit(twoContainers(), "s", "s")), []func(*view){ended("a", 0), ended("b", 0), running("s")}, v1.PodRunning, "Completed", v1.ConditionFalse},
		{"evicted but still running", twoContainers(), []func(*view){running("a"), func(v *view) { v.Verdict = &verdict{Reason: "Evicted", Evicted: true} }}, v1.PodPending, "running", v1.ConditionFalse},
		{"evicted", twoContainers(), []func(*view){ended("a", 137), ended("b", 137), func(v *view) { v.Verdict = &verdict{Reason: "Evicted", Evicted: true} }}, v1.PodFailed, "Error", v1.ConditionFalse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := seen(tt.pod, tt.change...)
			s := podStatus(tt.pod, v, "192.0.2.1")
			if s.Phase != tt.phase {
				t.Errorf("phase %s, want %s", s.Phase, tt.phase)
			}
			got := ""
			switch st := s.ContainerStatuses[0].State; {
			case st.Running != nil:
				got = "running"
			case st.Waiting != nil:
				got = st.Waiting.Reason
			case st.Terminated != nil:
				got = st.Terminated.Reason
			}
			if got != tt.a {
				t.Errorf("container a is %q, want %q", got, tt.a)
			}
			p := &v1.Pod{Status: s}
			if got := condition(p, v1.PodReady); got != tt.ready {
				t.Errorf("Ready is %s, want %s", got, tt.ready)
			}
			// What was published must follow from the view again: no endless writing.
			told := tt.pod.DeepCopy()
			told.Status = s
			again := podStatus(told, v, "192.0.2.1")
			if !sameStatus(&s, &again) {
				t.Errorf("the status is not stable:\n%+v\n%+v", s, again)
			}
		})
	}
}

func TestAPodSaysThatItIsBeingResized(t *testing.T) {
	pod := twoContainers()
	v := seen(pod, running("a"), running("b"))
	if s := podStatus(pod, v, "192.0.2.1"); condition(&v1.Pod{Status: s}, v1.PodResizeInProgress) != "absent" {
		t.Error("nothing is to be resized")
	}
	pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}
	s := podStatus(pod, v, "192.0.2.1")
	if got := condition(&v1.Pod{Status: s}, v1.PodResizeInProgress); got != v1.ConditionTrue {
		t.Errorf("PodResizeInProgress is %q before the container has its new limit", got)
	}
	pod.Status = s
	v.Containers["a"].Last.Resources = pod.Spec.Containers[0].Resources
	if s := podStatus(pod, v, "192.0.2.1"); condition(&v1.Pod{Status: s}, v1.PodResizeInProgress) != "absent" {
		t.Error("PodResizeInProgress stays after the resize")
	}
}
