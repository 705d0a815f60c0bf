// Package timeline shows where the milliseconds of a scaled deployment go: when
// each pod was created, bound, taken up by the node, started, ready and an
// endpoint, or on the way out marked, out of the endpoints and gone.
//
// It only looks on: two watches of the Kubernetes API and, when the instance's
// data directory is known, the birth of the files that the node agent makes on
// its way. So it costs the product nothing and works with any build, with
// another cluster too. Times are those of the observer's arrival: a watch event
// is a few hundred microseconds late, the birth of a file is rounded to the
// kernel's tick (4 ms at 250 Hz).
//
// Only tests and benchmarks import it. BenchmarkTimeline prints the tables for a
// real instance:
//
//	go test ./test/timeline -run '^$' -bench Timeline -benchtime 1x
package timeline

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Stage is a point that a pod passes.
type Stage string

// The stages, in the order of a pod's life. Those of the node are known only
// after AddFiles.
const (
	Created  Stage = "created"  // the pod exists in the API
	Bound    Stage = "bound"    // it has a node
	Taken    Stage = "taken"    // node: the record of its sandbox has been begun
	Started  Stage = "started"  // node: the log of its first container has been opened
	Running  Stage = "running"  // the API says that it runs
	Ready    Stage = "ready"    // the API says that it is ready
	Endpoint Stage = "endpoint" // a slice of the service says that it is ready

	Marked   Stage = "marked"   // its deletion has been asked for
	Excluded Stage = "excluded" // no slice says that it is ready any more
	Ended    Stage = "ended"    // the API says that its containers have ended
	Gone     Stage = "gone"     // it does not exist any more
)

var growing = []Stage{Created, Bound, Taken, Started, Running, Ready, Endpoint}

var shrinking = []Stage{Marked, Excluded, Ended, Gone}

// pod is what is known about one.
type pod struct {
	namespace, name string
	uid             types.UID
	container       string // its first one
	exists          bool
	at              map[Stage]time.Time
}

// Timeline follows the pods of one application.
type Timeline struct {
	mu      sync.Mutex // guards following
	began   time.Time
	pods    map[types.UID]*pod
	slices  map[string][]types.UID // ready endpoints, by slice
	writes  int                    // changes of slices since Begin
	changed chan struct{}          // closed and replaced with each change
	err     error
}

// Follow watches the pods with the label app=NAME and the slices of the service
// NAME until ctx ends.
func Follow(ctx context.Context, client kubernetes.Interface, namespace, name string) (*Timeline, error) {
	t := &Timeline{began: time.Now(), pods: map[types.UID]*pod{}, slices: map[string][]types.UID{}, changed: make(chan struct{})}
	pods, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return nil, fmt.Errorf("watch pods of %s: %w", name, err)
	}
	slices, err := client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		pods.Stop()
		return nil, fmt.Errorf("watch endpoints of %s: %w", name, err)
	}
	go t.follow(ctx, pods, t.pod)
	go t.follow(ctx, slices, t.slice)
	return t, nil
}

func (t *Timeline) follow(ctx context.Context, w watch.Interface, note func(watch.Event, time.Time)) {
	defer w.Stop()
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.update(func() { t.err = fmt.Errorf("a watch ended") })
				return
			}
			now := time.Now()
			t.update(func() { note(e, now) })
		case <-ctx.Done():
			return
		}
	}
}

func (t *Timeline) update(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	close(t.changed)
	t.changed = make(chan struct{})
}

// pod notes what an event about a pod says.
func (t *Timeline) pod(e watch.Event, now time.Time) {
	seen, ok := e.Object.(*corev1.Pod)
	if !ok {
		return
	}
	p := t.pods[seen.UID]
	if p == nil {
		p = &pod{namespace: seen.Namespace, name: seen.Name, uid: seen.UID, at: map[Stage]time.Time{}}
		if len(seen.Spec.Containers) > 0 {
			p.container = seen.Spec.Containers[0].Name
		}
		t.pods[seen.UID] = p
	}
	p.exists = e.Type != watch.Deleted
	p.reach(Created, now, true)
	p.reach(Bound, now, seen.Spec.NodeName != "")
	p.reach(Running, now, seen.Status.Phase == corev1.PodRunning)
	p.reach(Ready, now, condition(seen, corev1.PodReady))
	p.reach(Marked, now, seen.DeletionTimestamp != nil)
	p.reach(Ended, now, seen.DeletionTimestamp != nil && ended(seen))
	p.reach(Gone, now, e.Type == watch.Deleted)
}

// reach notes when a stage was first seen.
func (p *pod) reach(s Stage, now time.Time, reached bool) {
	if _, known := p.at[s]; reached && !known {
		p.at[s] = now
	}
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func ended(p *corev1.Pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated == nil {
			return false
		}
	}
	return len(p.Status.ContainerStatuses) > 0
}

// slice notes which pods are endpoints now and which have ceased to be.
func (t *Timeline) slice(e watch.Event, now time.Time) {
	s, ok := e.Object.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	t.writes++
	var ready []types.UID
	for _, endpoint := range s.Endpoints {
		if e.Type != watch.Deleted && endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
			ready = append(ready, endpoint.TargetRef.UID)
		}
	}
	before := t.slices[s.Name]
	t.slices[s.Name] = ready
	serving := t.serving()
	for uid := range serving {
		if p := t.pods[uid]; p != nil {
			p.reach(Endpoint, now, true)
		}
	}
	for _, uid := range before {
		if p := t.pods[uid]; p != nil {
			p.reach(Excluded, now, !serving[uid])
		}
	}
}

func (t *Timeline) serving() map[types.UID]bool {
	serving := map[types.UID]bool{}
	for _, ready := range t.slices {
		for _, uid := range ready {
			serving[uid] = true
		}
	}
	return serving
}

// Begin starts a measurement: call it right before the change whose effect is to
// be seen. What was known about pods that are gone is forgotten.
func (t *Timeline) Begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began, t.writes = time.Now(), 0
	for uid, p := range t.pods {
		if !p.exists {
			delete(t.pods, uid)
		}
	}
}

// Wait returns when exactly n pods exist and all are endpoints.
func (t *Timeline) Wait(ctx context.Context, n int) error {
	for {
		t.mu.Lock()
		exist, serve, changed, err := 0, len(t.serving()), t.changed, t.err
		for _, p := range t.pods {
			if p.exists {
				exist++
			}
		}
		t.mu.Unlock()
		if err != nil || exist == n && serve == n {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d pods exist and %d serve, want %d: %w", exist, serve, n, ctx.Err())
		}
	}
}
