package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// seen is a view in which sandbox, volumes and images are ready.
func seen(pod *v1.Pod, change ...func(*view)) *view {
	v := &view{
		Now: noon, FirstSeen: noon, Sandbox: sandboxView{attempt: attempt{Ready: true}, ID: "s1", IPs: []string{"10.244.0.9"}},
		Volumes: attempt{Ready: true}, Containers: map[string]*containerView{}, Busy: map[string]bool{}, Published: true,
	}
	for c := range containersOf(pod) {
		v.Containers[c.Name] = &containerView{Image: imageView{attempt: attempt{Ready: true}, Ref: c.Image}}
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func running(name string) func(*view) {
	return func(v *view) {
		v.Containers[name].Last = &instance{ID: name + "-0", Sandbox: "s1", Running: true, StartedAt: noon.Add(-time.Minute)}
		v.Containers[name].StartupPassed = true
		v.Containers[name].Ready = true
	}
}

func ended(name string, code int) func(*view) {
	return func(v *view) {
		v.Containers[name].Last = &instance{ID: name + "-0", Sandbox: "s1", ExitCode: code, StartedAt: noon.Add(-time.Minute), FinishedAt: noon.Add(-time.Second)}
	}
}

func busy(key string) func(*view) { return func(v *view) { v.Busy[key] = true } }

func deleted(pod *v1.Pod) *v1.Pod {
	grace, at := int64(30), metav1.NewTime(noon.Add(20*time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	return pod
}

func withPolicy(p v1.RestartPolicy, pod *v1.Pod) *v1.Pod { pod.Spec.RestartPolicy = p; return pod }

func withInit(pod *v1.Pod, sidecars string, names ...string) *v1.Pod {
	always := v1.ContainerRestartPolicyAlways
	for _, n := range names {
		c := v1.Container{Name: n, Image: "app:1"}
		if strings.Contains(sidecars, n) {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	return pod
}

func twoContainers() *v1.Pod { return aPod("web", v1.Container{Name: "a"}, v1.Container{Name: "b"}) }

// TestNext walks through what can be found at any moment, also after a crash at
// any point: each line is a state of the world and what must follow from it.
func TestNext(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pod    *v1.Pod
		change []func(*view)
		want   string // steps, "kind/container[:grace]"
		wake   time.Duration
	}{
		{"a new pod prepares everything at once", twoContainers(), []func(*view){func(v *view) {
			v.Sandbox, v.Volumes = sandboxView{}, attempt{}
			v.Containers["a"].Image.Ready, v.Containers["b"].Image.Ready = false, false
			v.Containers["b"].Image.Ref = "other"
		}}, "volumes/ sandbox/ pull/a", 0},
		{"nothing is begun twice", twoContainers(), []func(*view){func(v *view) { v.Sandbox, v.Volumes = sandboxView{}, attempt{} },
			busy("sandbox/"), busy("volumes/")}, "", 0},
		{"a failed sandbox waits for its turn", twoContainers(), []func(*view){func(v *view) {
			v.Sandbox = sandboxView{attempt: attempt{Err: errors.New("no"), RetryAt: noon.Add(4 * time.Second)}}
		}}, "", 4 * time.Second},
		{"the first container starts first", twoContainers(), nil, "start/a", 0},
		{"one start at a time", twoContainers(), []func(*view){busy("start/a")}, "", 0},
		{"then the next", twoContainers(), []func(*view){running("a")}, "start/b", 0},
		{"a container whose image is on its way holds the next up", twoContainers(), []func(*view){
			func(v *view) { v.Containers["a"].Image.Ready = false }, busy("pull/a")}, "", 0},
		{"one whose image cannot be pulled does not", twoContainers(), []func(*view){func(v *view) {
			v.Containers["a"].Image = imageView{attempt: attempt{Err: errors.New("no"), RetryAt: noon.Add(time.Minute)}, FailedAt: noon.Add(-time.Minute)}
		}}, "start/b", time.Minute},
		{"all run: nothing to do", twoContainers(), []func(*view){running("a"), running("b")}, "", 0},
		{"an ended container is restarted at once the first time", twoContainers(), []func(*view){running("a"), ended("b", 1)}, "start/b", 0},
		{"and with a delay later", twoContainers(), []func(*view){running("a"), ended("b", 1), func(v *view) {
			v.Containers["b"].Restart = restartDelay{Delay: 20 * time.Second, At: noon.Add(-time.Minute)}
		}}, "", 19 * time.Second},
		{"a success is not restarted OnFailure", withPolicy(v1.RestartPolicyOnFailure, twoContainers()), []func(*view){running("a"), ended("b", 0)}, "", 0},
		{"nothing is restarted with Never", withPolicy(v1.RestartPolicyNever, twoContainers()), []func(*view){running("a"), ended("b", 1)}, "", 0},
		{"a failed probe kills", twoContainers(), []func(*view){running("a"), running("b"), func(v *view) {
			v.Containers["b"].Kill, v.Containers["b"].KillGrace = "failed liveness probe", 5*time.Second
		}}, "kill/b:5s", 0},

		{"init containers go one by one", withInit(twoContainers(), "", "i", "j"), nil, "start/i", 0},
		{"the next after success", withInit(twoContainers(), "", "i", "j"), []func(*view){ended("i", 0)}, "start/j", 0},
		{"not while one runs", withInit(twoContainers(), "", "i", "j"), []func(*view){running("i")}, "", 0},
		{"a failed one is restarted", withInit(twoContainers(), "", "i", "j"), []func(*view){ended("i", 1)}, "start/i", 0},
		{"a failed one with Never ends the pod", withPolicy(v1.RestartPolicyNever, withInit(twoContainers(), "", "i")), []func(*view){ended("i", 1)}, "teardown/", 0},
		{"a sidecar lets the others pass once it is up", withInit(twoContainers(), "s", "s", "i"), []func(*view){running("s")}, "start/i", 0},
		{"but not before its startup probe", withInit(twoContainers(), "s", "s", "i"), []func(*view){running("s"), func(v *view) { v.Containers["s"].StartupPassed = false }}, "", 0},
		{"an init container of another sandbox runs again", withInit(twoContainers(), "", "i"), []func(*view){ended("i", 0), func(v *view) { v.Containers["i"].Last.Sandbox = "s0" }}, "start/i", 0},
		{"init containers never run again once a container ran", withInit(twoContainers(), "", "i"), []func(*view){running("a")}, "start/b", 0},
		{"a sidecar that ended comes back beside running containers", withInit(twoContainers(), "s", "s"), []func(*view){running("a"), running("b"), ended("s", 0)}, "start/s", 0},

		{"deletion stops all containers", deleted(twoContainers()), []func(*view){running("a"), running("b")}, "kill/a:20s kill/b:20s", 0},
		{"sidecars wait for the others", deleted(withInit(twoContainers(), "st", "s", "t")), []func(*view){running("a"), running("s"), running("t")}, "kill/a:20s", 0},
		{"and stop in reverse", deleted(withInit(twoContainers(), "st", "s", "t")), []func(*view){ended("a", 0), running("s"), running("t")}, "kill/t:20s", 0},
		{"deletion waits for a start under way", deleted(twoContainers()), []func(*view){busy("start/a")}, "", 0},
		{"teardown waits until the API knows the end", deleted(twoContainers()), []func(*view){ended("a", 0), func(v *view) { v.Published = false }}, "", 0},
		{"then everything is removed", deleted(twoContainers()), []func(*view){ended("a", 0)}, "teardown/", 0},
		{"then the object", deleted(twoContainers()), []func(*view){ended("a", 0), func(v *view) { v.TornDown = true }}, "delete/", 0},
		{"a vanished object stops containers too", twoContainers(), []func(*view){running("a"), func(v *view) { v.Removed = true }}, "kill/a:30s", 0},
		{"and then nothing is kept", twoContainers(), []func(*view){ended("a", 0), func(v *view) { v.Removed, v.TornDown = true, true }}, "forget/", 0},
		{"an evicted pod gets a second", twoContainers(), []func(*view){running("a"), func(v *view) { v.Verdict = &verdict{Reason: "Evicted", Evicted: true} }}, "kill/a:1s", 0},
		{"a refused pod is cleared away", twoContainers(), []func(*view){func(v *view) { v.Verdict = &verdict{Reason: "SysctlForbidden"} }}, "teardown/", 0},
		{"a finished job frees what it used", withPolicy(v1.RestartPolicyNever, twoContainers()), []func(*view){ended("a", 0), ended("b", 1)}, "teardown/", 0},
		{"its sidecar stops first", withPolicy(v1.RestartPolicyNever, withInit(twoContainers(), "s", "s")), []func(*view){ended("a", 0), ended("b", 0), running("s")}, "kill/s:30s", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := next(tt.pod, seen(tt.pod, tt.change...))
			var got []string
			for _, s := range p.Steps {
				text := s.key()
				if s.Grace > 0 {
					text += fmt.Sprintf(":%v", s.Grace)
				}
				got = append(got, text)
			}
			if want := strings.Fields(tt.want); !slices.Equal(got, want) {
				t.Errorf("steps %v, want %v", got, want)
			}
			wake := time.Duration(0)
			if !p.WakeAt.IsZero() {
				wake = p.WakeAt.Sub(noon)
			}
			if wake != tt.wake {
				t.Errorf("wake after %v, want %v", wake, tt.wake)
			}
		})
	}
}

func TestDeadlineEndsThePod(t *testing.T) {
	pod := twoContainers()
	limit, start := int64(60), metav1.NewTime(noon.Add(-time.Minute))
	pod.Spec.ActiveDeadlineSeconds, pod.Status.StartTime = &limit, &start
	v := seen(pod, running("a"), running("b"))
	if p := next(pod, v); len(p.Steps) != 2 || p.Steps[0].Kind != stepKill {
		t.Errorf("after the deadline: %v", p.Steps)
	}
	v = seen(pod, ended("a", 137), ended("b", 137))
	if s := podStatus(pod, v, "192.0.2.1"); s.Phase != v1.PodFailed || s.Reason != "DeadlineExceeded" {
		t.Errorf("status %s %s, want Failed DeadlineExceeded", s.Phase, s.Reason)
	}
}

func TestRestartDelayDoublesAndIsForgotten(t *testing.T) {
	var r restartDelay
	at := noon
	for i, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
		if got := r.until(at).Sub(at); got != want*time.Second {
			t.Errorf("delay before restart %d is %v, want %v", i, got, want*time.Second)
		}
		started := r.until(at)
		r = r.next(at, started)
		at = started.Add(time.Second)
	}
	if later := at.Add(11 * time.Minute); !r.until(later).Equal(later) {
		t.Error("the delay is not forgotten after ten minutes of running")
	}
}
