package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// told is a handler that writes down when it was told what.
type told struct {
	began time.Time
	lines []string
}

func (h *told) note(what string) {
	h.lines = append(h.lines, fmt.Sprintf("%d %s", time.Since(h.began).Milliseconds(), what))
}

func (h *told) OnAdd(obj any, _ bool) { h.note("+" + text(obj)) }
func (h *told) OnUpdate(old, cur any) { h.note(text(old) + ">" + text(cur)) }
func (h *told) OnDelete(obj any) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	h.note("-" + text(obj))
}

func text(obj any) string {
	p := obj.(*corev1.Pod)
	return p.Name + p.Status.Message
}

// state is a pod of that name in that state, on its way nowhere; the state says how soon it matters.
func state(name, message string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Status: corev1.PodStatus{Message: message, Phase: corev1.PodSucceeded}}
}

// arrival is a pod of that name that is on its way or has arrived.
func arrival(name string, isReady bool) *corev1.Pod {
	pod := state(name, "s")
	pod.Status.Phase = corev1.PodRunning
	if isReady {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return pod
}

func paced(only func(*corev1.Pod) bool) (*pacer, *told) {
	h := &told{began: time.Now()}
	return newPacer(pace{only: only, shortest: 10 * time.Millisecond, longest: 40 * time.Millisecond, crowded: 160 * time.Millisecond, haste: func(old, cur *corev1.Pod) haste {
		if cur == nil {
			cur = old
		}
		return map[byte]haste{'n': now, 's': soon, 'l': later, 'w': whenever}[cur.Status.Message[0]]
	}}, h), h
}

// TestPace tells when a controller hears of what happens to pods.
func TestPace(t *testing.T) {
	type event struct {
		at       int // milliseconds
		old, cur *corev1.Pod
	}
	for _, c := range []struct {
		name   string
		events []event
		want   []string
	}{
		{"what is urgent is told at once, however much waits",
			[]event{{0, nil, state("a", "l1")}, {1, nil, state("b", "n1")}, {2, state("b", "n1"), state("b", "n2")}},
			[]string{"1 +bn1", "2 bn1>bn2", "10 +al1"}},
		{"a single event is told at once and those right after it together",
			[]event{{0, nil, state("a", "s")}, {1, nil, state("b", "s")}, {2, nil, state("c", "s")}},
			[]string{"0 +as", "10 +bs", "10 +cs"}},
		{"the longer a burst lasts, the fewer deliveries it makes",
			[]event{{0, nil, state("a", "s")}, {1, nil, state("b", "s")}, {11, nil, state("c", "s")}, {31, nil, state("d", "s")}, {71, nil, state("e", "s")}},
			[]string{"0 +as", "10 +bs", "30 +cs", "70 +ds", "110 +es"}},
		{"after a burst a single event is told at once again",
			[]event{{0, nil, state("a", "s")}, {1, nil, state("b", "s")}, {100, nil, state("c", "s")}, {101, nil, state("d", "s")}},
			[]string{"0 +as", "10 +bs", "100 +cs", "110 +ds"}},
		{"several updates of a pod become one",
			[]event{{0, state("a", "l1"), state("a", "l2")}, {1, state("b", "l1"), state("b", "l2")}, {2, state("a", "l2"), state("a", "l3")}},
			[]string{"10 al1>al3", "10 bl1>bl2"}},
		{"what is urgent comes after what waits of the same pod",
			[]event{{0, state("a", "l1"), state("a", "l2")}, {1, state("a", "l2"), state("a", "n3")}},
			[]string{"1 al1>al2", "1 al2>an3"}},
		{"a pod that is updated and deleted is told of both",
			[]event{{0, state("a", "l1"), state("a", "l2")}, {1, state("a", "l2"), nil}},
			[]string{"10 al1>al2", "10 -al2"}},
		{"what has no hurry goes with the next that has some",
			[]event{{0, nil, state("a", "w")}, {5, state("a", "w"), state("a", "l")}, {50, nil, state("b", "w")}},
			[]string{"15 +al", "90 +bw"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, h := paced(nil)
				for _, e := range c.events {
					time.Sleep(time.Duration(e.at)*time.Millisecond - time.Since(h.began))
					switch {
					case e.old == nil:
						p.OnAdd(e.cur, false)
					case e.cur == nil:
						p.OnDelete(cache.DeletedFinalStateUnknown{Obj: e.old})
					default:
						p.OnUpdate(e.old, e.cur)
					}
				}
				time.Sleep(time.Second)
				if !slices.Equal(h.lines, c.want) {
					t.Errorf("told %q, want %q", h.lines, c.want)
				}
			})
		})
	}
}

// TestPaceOfSomePods shows that a controller which needs to know of some pods only
// hears of one when it becomes one of them and when it ceases to be.
func TestPaceOfSomePods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := paced(func(p *corev1.Pod) bool { return len(p.Status.Message) > 1 })
		p.OnAdd(state("a", "n"), false)
		p.OnUpdate(state("a", "n"), state("a", "n1"))
		p.OnUpdate(state("a", "n1"), state("a", "n2"))
		p.OnUpdate(state("a", "n2"), state("a", "n"))
		p.OnDelete(state("a", "n"))
		if want := []string{"0 +an1", "0 an1>an2", "0 -an2"}; !slices.Equal(h.lines, want) {
			t.Errorf("told %q, want %q", h.lines, want)
		}
	})
}

// TestPaceOfACrowd shows that a controller hears ever more rarely of pods that arrive in a
// crowd, and soon of the last.
func TestPaceOfACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := paced(ready)
		names := strings.Fields("a b c d e f g h i j k")
		for _, name := range names {
			p.OnAdd(arrival(name, false), false)
		}
		time.Sleep(100 * time.Millisecond)
		h.began = time.Now()
		for _, name := range names {
			p.OnUpdate(arrival(name, false), arrival(name, true))
			time.Sleep(8 * time.Millisecond)
		}
		time.Sleep(youth)
		want := []string{"0 +as", "10 +bs", "30 +cs", "30 +ds", "70 +es", "70 +fs", "70 +gs", "70 +hs", "70 +is", "90 +js", "90 +ks"}
		if !slices.Equal(h.lines, want) {
			t.Errorf("told %q, want %q", h.lines, want)
		}
	})
}

// TestPaceBesideStuckPods shows that one pod which does not become ready does not for ever
// hold back what is told of others.
func TestPaceBesideStuckPods(t *testing.T) {
	longest := func(after time.Duration) (most time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			p, _ := paced(nil)
			p.OnAdd(arrival("stuck", false), false)
			time.Sleep(after)
			for i := range 100 {
				p.OnAdd(state(fmt.Sprint(i), "s"), false)
				time.Sleep(8 * time.Millisecond)
				most = max(most, p.moment)
			}
			time.Sleep(time.Second)
		})
		return most
	}
	if young, old := longest(time.Second), longest(youth); young != 160*time.Millisecond || old != 40*time.Millisecond {
		t.Errorf("deliveries are held back for %v beside a pod that is on its way and %v beside one that is stuck, want 160 ms and 40 ms", young, old)
	}
}
