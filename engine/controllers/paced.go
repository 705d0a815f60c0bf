package controllers

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A controller that sums up pods (the status of a ReplicaSet, the endpoints of
// a Service) does its whole work again for each event of each pod: fifty pods
// that start make fifty sums and fifty writes, each of which everybody hears of.
// Pacing gives such a controller the events of a burst a few at a time, and a
// single event at once. Nothing is lost and the events of one pod keep their
// order; of several updates of one pod in between, the controller sees one, from
// the first state to the last, as informers do whenever they fall behind
// (docs/decisions/0014-pods-in-a-burst.md).

// haste says how soon an event of a pod has to reach the controller.
type haste int

const (
	now      haste = iota // always at once
	soon                  // at once, unless others were delivered a moment ago
	later                 // after a moment, together with what comes meanwhile
	whenever              // with the next one that is delivered, if any comes within the longest moment
)

// pace is how events are delivered to one controller.
type pace struct {
	// haste judges an event: old is nil when the pod is new, cur when it is gone.
	haste func(old, cur *corev1.Pod) haste
	// only, when set, picks the pods that the controller needs to know of.
	only func(*corev1.Pod) bool
	// delivered, when set, is told whenever what waited has been delivered.
	delivered func()
	// shortest is the moment that is waited for others after a single event. It
	// doubles as long as they keep coming: up to longest, or up to crowded while pods
	// are on their way. When the last of those has arrived, it is over.
	shortest, longest, crowded time.Duration
}

// youth is how long a pod that has been made counts as on its way.
const youth = 5 * time.Second

// arriving tells whether a pod will matter soon: it is to run and is not ready.
func arriving(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && !ready(pod) && !finished(pod)
}

// pacedPods is an informer of pods that delivers with a pace.
type pacedPods struct {
	coreinformers.PodInformer
	pace pace
}

// Informer implements PodInformer.
func (p pacedPods) Informer() cache.SharedIndexInformer {
	return pacedInformer{p.PodInformer.Informer(), p.pace}
}

type pacedInformer struct {
	cache.SharedIndexInformer
	pace pace
}

// AddEventHandler implements SharedInformer.
func (i pacedInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(newPacer(i.pace, h))
}

// pacer holds back events of pods for one handler.
type pacer struct {
	pace
	to cache.ResourceEventHandler

	mu       sync.Mutex // guards following, and keeps deliveries in order
	waiting  []podEvent // oldest first
	of       map[types.UID]int
	moment   time.Duration           // to wait for others now
	pressing bool                    // something waits that does not merely go with others
	quiet    time.Time               // until when deliveries are held back
	timer    *time.Timer             // nil when nothing waits
	at       time.Time               // when timer is due
	coming   map[types.UID]time.Time // pods on their way, and until when they count as that
}

// podEvent is what happened to a pod: old is nil when it is new, cur when it is gone.
type podEvent struct {
	old, cur *corev1.Pod
	gone     any // what the informer said of a pod that is gone
}

func newPacer(p pace, to cache.ResourceEventHandler) *pacer {
	if p.only != nil {
		to = cache.FilteringResourceEventHandler{Handler: to, FilterFunc: func(obj any) bool {
			pod, ok := obj.(*corev1.Pod)
			return !ok || p.only(pod)
		}}
	}
	return &pacer{pace: p, to: to, of: map[types.UID]int{}, moment: p.shortest, coming: map[types.UID]time.Time{}}
}

// OnAdd implements ResourceEventHandler.
func (p *pacer) OnAdd(obj any, initial bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || initial {
		p.to.OnAdd(obj, initial)
		return
	}
	p.take(pod.UID, podEvent{cur: pod})
}

// OnUpdate implements ResourceEventHandler.
func (p *pacer) OnUpdate(oldObj, newObj any) {
	old, ok := oldObj.(*corev1.Pod)
	cur, alsoOK := newObj.(*corev1.Pod)
	if !ok || !alsoOK || old.UID != cur.UID {
		p.to.OnUpdate(oldObj, newObj)
		return
	}
	p.take(cur.UID, podEvent{old: old, cur: cur})
}

// OnDelete implements ResourceEventHandler.
func (p *pacer) OnDelete(obj any) {
	inner := obj
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		inner = t.Obj
	}
	pod, ok := inner.(*corev1.Pod)
	if !ok {
		p.to.OnDelete(obj)
		return
	}
	p.take(pod.UID, podEvent{old: pod, gone: obj})
}

// take delivers an event or keeps it for later.
func (p *pacer) take(uid types.UID, e podEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(uid, e)
	h := p.haste(e.old, e.cur)
	if h == now {
		p.deliverOf(uid)
		p.deliver(e)
		return
	}
	p.keep(uid, e)
	p.pressing = p.pressing || h != whenever
	switch {
	case h == whenever:
		p.wait(p.longest)
	case h == later:
		p.wait(p.shortest)
	case time.Now().After(p.quiet):
		p.flush()
	default:
		p.wait(0)
	}
}

// follow keeps account of pods on their way. When the last one has arrived, nothing is
// held back for the sake of more.
func (p *pacer) follow(uid types.UID, e podEvent) {
	if e.old == nil && arriving(e.cur) {
		p.coming[uid] = time.Now().Add(youth)
	}
	if _, known := p.coming[uid]; !known || arriving(e.cur) {
		return
	}
	delete(p.coming, uid)
	if soon := time.Now().Add(p.shortest); p.quiet.After(soon) && !p.busy() {
		p.quiet = soon
		if p.pressing {
			p.wait(0)
		}
	}
}

// busy tells whether pods are on their way.
func (p *pacer) busy() bool {
	for uid, until := range p.coming {
		if time.Now().Before(until) {
			return true
		}
		delete(p.coming, uid)
	}
	return false
}

// wait lets what waits be delivered after d, or when deliveries are no longer
// held back.
func (p *pacer) wait(d time.Duration) {
	d = max(d, time.Until(p.quiet))
	at := time.Now().Add(d)
	switch {
	case p.timer == nil:
		p.timer, p.at = time.AfterFunc(d, p.due), at
	case at.Before(p.at):
		p.timer.Reset(d)
		p.at = at
	}
}

// keep adds an event to those that wait. An update of a pod that has an update
// waiting becomes one with it.
func (p *pacer) keep(uid types.UID, e podEvent) {
	if i, waits := p.of[uid]; waits && e.cur != nil && p.waiting[i].cur != nil {
		p.waiting[i].cur = e.cur
		return
	}
	p.of[uid] = len(p.waiting)
	p.waiting = append(p.waiting, e)
}

// deliverOf delivers what waits of one pod.
func (p *pacer) deliverOf(uid types.UID) {
	i, waits := p.of[uid]
	if !waits {
		return
	}
	delete(p.of, uid)
	p.deliver(p.waiting[i])
	p.waiting[i] = podEvent{}
}

// due delivers what waits at the end of a moment.
func (p *pacer) due() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil {
		return // delivered meanwhile
	}
	p.flush()
}

// flush delivers all that waits. The more often it is called without a pause,
// the longer it holds back what comes next.
func (p *pacer) flush() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	most := p.longest
	if p.busy() {
		most = max(most, p.crowded)
	}
	if time.Since(p.quiet) > p.moment {
		p.moment = p.shortest
	} else {
		p.moment = min(2*p.moment, most)
	}
	p.pressing = false
	for _, e := range p.waiting {
		p.deliver(e)
	}
	if p.delivered != nil {
		p.delivered()
	}
	clear(p.waiting)
	clear(p.of)
	p.waiting = p.waiting[:0]
	p.quiet = time.Now().Add(p.moment)
}

func (p *pacer) deliver(e podEvent) {
	switch {
	case e.old != nil && e.cur != nil:
		p.to.OnUpdate(e.old, e.cur)
	case e.cur != nil:
		p.to.OnAdd(e.cur, false)
	case e.gone != nil:
		p.to.OnDelete(e.gone)
	}
}
