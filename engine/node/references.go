package node

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// objectRef names a ConfigMap or Secret that pods may refer to.
type objectRef struct {
	kind            string
	namespace, name string
}

// followReferences watches ConfigMaps and Secrets without keeping them, and has the
// pods that refer to a changed one look again.
func (n *Node) followReferences(ctx context.Context) {
	core := n.client.CoreV1()
	var wg sync.WaitGroup
	follow := func(kind string, example runtime.Object, list func(metav1.ListOptions) (runtime.Object, error), watch func(metav1.ListOptions) (watch.Interface, error)) {
		lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{ListFunc: list, WatchFunc: watch}, n.client)
		r := cache.NewReflectorWithOptions(lw, example, &versions{kind: kind, changed: n.referenceChanged, seen: map[objectRef]string{}}, cache.ReflectorOptions{Name: "node " + kind})
		wg.Go(func() { r.RunWithContext(ctx) })
	}
	follow("ConfigMap", &v1.ConfigMap{},
		func(o metav1.ListOptions) (runtime.Object, error) { return core.ConfigMaps("").List(ctx, o) },
		func(o metav1.ListOptions) (watch.Interface, error) { return core.ConfigMaps("").Watch(ctx, o) })
	follow("Secret", &v1.Secret{},
		func(o metav1.ListOptions) (runtime.Object, error) { return core.Secrets("").List(ctx, o) },
		func(o metav1.ListOptions) (watch.Interface, error) { return core.Secrets("").Watch(ctx, o) })
	wg.Wait()
}

// referenceChanged wakes the pods that refer to the object.
func (n *Node) referenceChanged(ref objectRef) {
	for _, w := range n.allWorkers() {
		w.referenceChanged(ref)
	}
}

func (w *worker) referenceChanged(ref objectRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod.Namespace != ref.namespace || !refersTo(w.pod, ref) {
		return
	}
	if !w.v.Volumes.Ready {
		w.v.Volumes.RetryAt = time.Time{}
	} else {
		w.refreshAt = time.Unix(1, 0)
	}
	for _, cv := range w.v.Containers {
		if cv.Create.Reason == "CreateContainerConfigError" {
			cv.Create.RetryAt = time.Time{}
		}
	}
	w.wake()
}

func refersTo(pod *v1.Pod, ref objectRef) bool {
	found := false
	is := func(name string) bool {
		found = found || name == ref.name
		return !found
	}
	switch ref.kind {
	case "ConfigMap":
		podutil.VisitPodConfigmapNames(pod, is)
	case "Secret":
		podutil.VisitPodSecretNames(pod, is)
	}
	return found
}

// versions is a [cache.ReflectorStore] that remembers only which version of each
// object it has seen, to tell changes from repetitions.
type versions struct {
	kind    string
	changed func(objectRef)
	mu      sync.Mutex
	seen    map[objectRef]string
	synced  bool
}

func (s *versions) note(obj any, gone bool) error {
	o, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	ref := objectRef{s.kind, o.GetNamespace(), o.GetName()}
	s.mu.Lock()
	known := s.seen[ref] == o.GetResourceVersion()
	if gone {
		delete(s.seen, ref)
	} else {
		s.seen[ref] = o.GetResourceVersion()
	}
	s.mu.Unlock()
	if !known && !gone {
		s.changed(ref)
	}
	return nil
}

func (s *versions) Add(obj any) error    { return s.note(obj, false) }
func (s *versions) Update(obj any) error { return s.note(obj, false) }
func (s *versions) Delete(obj any) error { return s.note(obj, true) }
func (s *versions) Resync() error        { return nil }

// Replace takes a fresh list. The first one is no news: volumes are made from
// what is current.
func (s *versions) Replace(list []any, _ string) error {
	first := !s.synced
	s.synced = true
	seen := make(map[objectRef]string, len(list))
	var changed []objectRef
	s.mu.Lock()
	for _, obj := range list {
		o, err := meta.Accessor(obj)
		if err != nil {
			continue
		}
		ref := objectRef{s.kind, o.GetNamespace(), o.GetName()}
		if v := o.GetResourceVersion(); !first && s.seen[ref] != v {
			changed = append(changed, ref)
		}
		seen[ref] = o.GetResourceVersion()
	}
	s.seen = seen
	s.mu.Unlock()
	for _, ref := range changed {
		s.changed(ref)
	}
	return nil
}
