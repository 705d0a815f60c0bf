package monitor

import (
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// scrapeAnnotation is how a pod or a Service asks to be scraped.
const scrapeAnnotation = "prometheus.io/scrape"

// gate is an informer that tells its handler only of objects that may be scraped. Discovery
// makes a target with some forty labels of every port of every pod that it hears of, and one
// of every endpoint again whenever one of a slice changes, mostly for nobody.
//
// As long as monitors exist, which can choose anything, it tells of everything.
type gate struct {
	cache.SharedIndexInformer
	wanted  func(object any) bool
	open    atomic.Bool
	handler cache.ResourceEventHandler // of discovery, which adds one and takes objects from the store
}

// AddEventHandler implements SharedInformer.
func (g *gate) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	g.handler = h
	return g.SharedIndexInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if g.passes(o) {
				h.OnAdd(o, false)
			}
		},
		UpdateFunc: func(old, o any) {
			if g.passes(o) || g.passes(old) {
				h.OnUpdate(old, o)
			}
		},
		DeleteFunc: h.OnDelete,
	})
}

func (g *gate) passes(o any) bool { return g.open.Load() || g.wanted(o) }

// set opens the gate, then telling of all that there is, or shuts it.
func (g *gate) set(open bool) {
	if g.open.Swap(open) == open || !open {
		return
	}
	for _, o := range g.GetStore().List() {
		g.handler.OnUpdate(o, o)
	}
}

// asksForScrape is whether a pod asks by annotation.
func asksForScrape(o any) bool {
	pod, ok := o.(*corev1.Pod)
	return ok && pod.Annotations[scrapeAnnotation] == "true"
}

// asksForService is whether the Service of a slice asks. When a Service begins or ceases to
// ask, discovery looks at its slices by itself.
func asksForService(services cache.Store) func(any) bool {
	return func(o any) bool {
		slice, ok := o.(*discoveryv1.EndpointSlice)
		if !ok {
			return false
		}
		s, known, err := services.GetByKey(slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName])
		return err == nil && known && s.(*corev1.Service).Annotations[scrapeAnnotation] == "true"
	}
}
