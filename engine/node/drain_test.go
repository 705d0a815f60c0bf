package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestADeletedPodIsStoppedWhenNoServiceSendsItConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.net.withdrawn = make(chan struct{})
		r.remove("web", 30)
		time.Sleep(spreadMax / 2)
		if got := r.driver.signalled(); len(got) != 0 {
			t.Errorf("got %v while a service still sends it connections", got)
		}
		close(r.net.withdrawn)
		time.Sleep(spreadMargin + time.Millisecond)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Errorf("got %v after the services let go", got)
		}
	})
}

func TestADeletedPodIsStoppedThoughAServiceDoesNotLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.net.withdrawn = make(chan struct{})
		r.remove("web", 30)
		time.Sleep(spreadMax + time.Millisecond)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Errorf("got %v when the wait is over", got)
		}
	})
}

func TestADeletedPodIsStoppedWhenItsRequestsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.net.withdrawn = make(chan struct{})
		r.net.connect(3)
		r.remove("web", 30)
		time.Sleep(spreadMax + time.Millisecond) // not enough for one that is in use
		close(r.net.withdrawn)
		time.Sleep(drainMax / 2)
		if got := r.driver.signalled(); len(got) != 0 {
			t.Errorf("got %v while the gateway has connections to it", got)
		}
		r.net.connect(0)
		time.Sleep(drainLookMax + time.Millisecond)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Errorf("got %v after the gateway left", got)
		}
	})
}

func TestADeletedPodIsStoppedThoughRequestsDoNotEnd(t *testing.T) {
	for grace, limit := range map[int64]time.Duration{30: drainMax, 4: 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, aPod("web", v1.Container{Name: "a"}))
			defer func() { r.stop() }()
			time.Sleep(time.Second)
			r.net.withdrawn = make(chan struct{})
			close(r.net.withdrawn)
			r.net.connect(1)
			r.remove("web", grace)
			time.Sleep(limit - time.Second/2)
			if got := r.driver.signalled(); len(got) != 0 {
				t.Errorf("got %v with %d s of grace, too early", got, grace)
			}
			time.Sleep(time.Second)
			if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
				t.Errorf("got %v when the wait is over, with %d s of grace", got, grace)
			}
		})
	}
}

func TestADeletionThatBecomesUrgentEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aPod("web", v1.Container{Name: "a"}))
		defer func() { r.stop() }()
		time.Sleep(time.Second)
		r.net.withdrawn = make(chan struct{})
		close(r.net.withdrawn)
		r.net.connect(1)
		r.remove("web", 30)
		time.Sleep(time.Second)
		r.remove("web", 1)
		time.Sleep(time.Millisecond)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Errorf("got %v after the grace period was shortened", got)
		}
	})
}

func TestWhereManyWaitForAProcessorMoreTimeIsLeft(t *testing.T) {
	for text, want := range map[string]int{
		"0.50 0.40 0.30 1/812 4711": 1, "9.00 8.00 7.00 9/812 4711": 4, "40.1 30.2 20.3 50/900 4711": 25, "": 1, "a b c d": 1,
	} {
		if got := runnableOf(text, 2); got != want {
			t.Errorf("%q: %d tasks for each processor, want %d", text, got, want)
		}
	}
}
