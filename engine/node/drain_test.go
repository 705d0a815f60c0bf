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
		time.Sleep(drainMax / 2)
		if got := r.driver.signalled(); len(got) != 0 {
			t.Errorf("got %v while a service still sends it connections", got)
		}
		close(r.net.withdrawn)
		time.Sleep(drainMargin + time.Millisecond)
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
		time.Sleep(drainMax + time.Millisecond)
		if got := r.driver.signalled(); !slices.Equal(got, []string{"a:15"}) {
			t.Errorf("got %v when the wait is over", got)
		}
	})
}
