package controller

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// follower keeps a copy of all objects of one kind and tells of changes.
//
// It is a Reflector that writes straight into the indexer, instead of a shared
// informer with its queue of deltas and listeners: there is one listener here,
// which only wants to know what changed, and it wants to know at once. It also
// lists again soon after an API server lost its history by a restart, where an
// informer would wait for 0.8 s and more.
type follower struct {
	cache.Indexer
	reflector *cache.Reflector
	changed   func(o any) // o is new, differs in more than its status, or is gone
	touched   func(o any) // something else about an object changed
	compactor compactor   // of the Reflector, which calls one method at a time
	synced    chan struct{}
	onSync    func() // closes synced, once
}

// backoff between attempts to list. Connection failures do not get here: the
// transport waits by itself for an API that is away.
var backoff = wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 7, Cap: 3 * time.Second}

// api is the part of a typed client that a follower needs.
type api[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// follow prepares a follower of the objects that api returns with the field
// selector, which may be empty. client is where api came from.
func follow[L runtime.Object](client any, a api[L], example runtime.Object, fieldSelector string) *follower {
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fieldSelector
			return a.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fieldSelector
			return a.Watch(ctx, o)
		},
	}, client)
	f := &follower{
		Indexer: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
		synced:  make(chan struct{}),
	}
	f.onSync = sync.OnceFunc(func() { close(f.synced) })
	delays := backoff
	f.reflector = cache.NewReflectorWithOptions(source, example, f, cache.ReflectorOptions{Backoff: &delays})
	return f
}

// Add, Update, Delete and Replace are called by the Reflector, one at a time.
func (f *follower) Add(o any) error { return f.Update(o) }

// Update stores a new state of an object.
func (f *follower) Update(o any) error {
	o = f.trim(o)
	before, existed, err := f.Get(o)
	if err != nil {
		return err
	}
	if err := f.Indexer.Update(o); err != nil {
		return err
	}
	f.tell(before, existed, o)
	return nil
}

// Delete forgets an object.
func (f *follower) Delete(o any) error {
	if err := f.Indexer.Delete(o); err != nil {
		return err
	}
	f.changed(o)
	return nil
}

// Replace stores a complete list, and tells how it differs from what was known.
func (f *follower) Replace(list []any, version string) error {
	old := map[string]any{}
	for _, key := range f.ListKeys() {
		old[key], _, _ = f.GetByKey(key)
	}
	for i := range list {
		list[i] = f.trim(list[i])
	}
	if err := f.Indexer.Replace(list, version); err != nil {
		return err
	}
	for _, o := range list {
		key, err := cache.MetaNamespaceKeyFunc(o)
		if err != nil {
			return err
		}
		before, existed := old[key]
		f.tell(before, existed, o)
		delete(old, key)
	}
	for _, gone := range old {
		f.changed(gone)
	}
	f.onSync()
	return nil
}

func (f *follower) tell(before any, existed bool, after any) {
	if existed && sameSpec(before, after) {
		f.touched(after)
		return
	}
	f.changed(after)
}
