package controllers

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// sliceRetry lets the endpoint slice controller try again at once. It refuses to
// work on a Service while it has not yet heard of its own last write to it, and
// then waits for a second. Here the news of the write is a few milliseconds
// away: when it comes, and pods were delivered meanwhile, the controller is told
// of the Service once more.
type sliceRetry struct {
	services corelisters.ServiceLister

	mu      sync.Mutex // guards following
	handler cache.ResourceEventHandler
	count   uint64            // how often pods were delivered
	last    time.Time         // when they were
	seen    map[string]uint64 // count at the last news of a Service's slices
}

// missedFor is how long after pods were delivered news of a write can mean that
// the controller refused them: its own wait is not longer.
const missedFor = time.Second

func (r *sliceRetry) delivered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.last = time.Now()
}

// missed notes news of a Service's slices and tells whether pods may have been
// refused before it came: those of the last delivery but one caused the write.
func (r *sliceRetry) missed(service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := r.count - r.seen[service]
	r.seen[service] = r.count
	return since > 1 && time.Since(r.last) < missedFor
}

// OnAdd implements ResourceEventHandler.
func (r *sliceRetry) OnAdd(obj any, initial bool) {
	if !initial {
		r.OnUpdate(nil, obj)
	}
}

// OnUpdate implements ResourceEventHandler.
func (r *sliceRetry) OnUpdate(_, obj any) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" || !r.missed(slice.Namespace+"/"+name) {
		return
	}
	r.mu.Lock()
	handler := r.handler
	r.mu.Unlock()
	if service, err := r.services.Services(slice.Namespace).Get(name); err == nil && handler != nil {
		handler.OnUpdate(service, service)
	}
}

// OnDelete implements ResourceEventHandler.
func (r *sliceRetry) OnDelete(any) {}

// retriedServices is an informer of services that lets a sliceRetry tell its
// handler of one, too.
type retriedServices struct {
	coreinformers.ServiceInformer
	retry *sliceRetry
}

// Informer implements ServiceInformer.
func (s retriedServices) Informer() cache.SharedIndexInformer {
	return retriedInformer{s.ServiceInformer.Informer(), s.retry}
}

type retriedInformer struct {
	cache.SharedIndexInformer
	retry *sliceRetry
}

// AddEventHandler implements SharedInformer.
func (i retriedInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.retry.mu.Lock()
	i.retry.handler = h
	i.retry.mu.Unlock()
	return i.SharedIndexInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { h.OnAdd(obj, false) },
		UpdateFunc: h.OnUpdate,
		DeleteFunc: func(obj any) {
			i.retry.forget(obj)
			h.OnDelete(obj)
		},
	})
}

func (r *sliceRetry) forget(obj any) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	if service, ok := obj.(*corev1.Service); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.seen, service.Namespace+"/"+service.Name)
	}
}
