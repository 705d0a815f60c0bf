package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

const (
	// eventBurst and eventRate bound the events of one object: a pod in a crash loop
	// must not fill the store, fifty pods that start at once must all be told about.
	eventBurst = 50
	eventRate  = 1. / 300

	// eventLag is how long events wait while pods are on their way, so that nothing
	// that somebody waits for queues behind them; eventLagMax bounds it.
	eventLag    = 100 * time.Millisecond
	eventLagMax = 2 * time.Second

	eventQueue = 10_000 // an API that is away must not cost memory without bound
)

// teller writes events, in their order and behind the work that they are about.
type teller struct {
	client     kubernetes.Interface
	source     v1.EventSource
	correlator *record.EventCorrelator // upstream's: repetitions are counted, floods cut
	underway   *atomic.Int64           // operations on pods
	more       chan struct{}           // capacity 1

	mu    sync.Mutex // guards following
	queue []*v1.Event
	last  int64 // what the last event's name was made of
}

func newTeller(client kubernetes.Interface, node string, underway *atomic.Int64) *teller {
	return &teller{
		client:     client,
		source:     v1.EventSource{Component: "kubelet", Host: node},
		correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{BurstSize: eventBurst, QPS: eventRate}),
		underway:   underway,
		more:       make(chan struct{}, 1),
	}
}

// tell queues an event. It never blocks.
func (t *teller) tell(ref v1.ObjectReference, kind, reason, message string) {
	now := metav1.Now()
	e := &v1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ref.Namespace,
		},
		InvolvedObject: ref, Reason: reason, Message: message, Type: kind, Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source: t.source, ReportingController: t.source.Component, ReportingInstance: t.source.Host,
	}
	t.mu.Lock()
	t.last = max(now.UnixNano(), t.last+1) // two events of one moment have two names
	e.Name = fmt.Sprintf("%s.%x", ref.Name, t.last)
	if len(t.queue) < eventQueue {
		t.queue = append(t.queue, e)
	}
	t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// run writes events until ctx ends.
func (t *teller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.more:
		}
		t.hold(ctx)
		t.mu.Lock()
		list := t.queue
		t.queue = nil
		t.mu.Unlock()
		for _, e := range list {
			if ctx.Err() != nil {
				return
			}
			t.write(ctx, e)
		}
	}
}

// hold waits until no pod is on its way, or for too long.
func (t *teller) hold(ctx context.Context) {
	timer := time.NewTicker(eventLag)
	defer timer.Stop()
	for waited := time.Duration(0); waited < eventLagMax; waited += eventLag {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if t.underway.Load() == 0 {
			return
		}
	}
}

// write makes one event known: as a new object, or as one more of the same. One
// that the API refuses is dropped, as upstream does.
func (t *teller) write(ctx context.Context, e *v1.Event) {
	result, err := t.correlator.EventCorrelate(e)
	if err != nil || result.Skip {
		return
	}
	e = result.Event
	events := t.client.CoreV1().Events(e.Namespace)
	var written *v1.Event
	if e.Count > 1 {
		written, err = events.PatchWithEventNamespaceWithContext(ctx, e, result.Patch)
	}
	if e.Count == 1 || apierrors.IsNotFound(err) {
		e.ResourceVersion = "" // a name that is taken no more can be taken again
		written, err = events.CreateWithEventNamespaceWithContext(ctx, e)
	}
	if err == nil {
		t.correlator.UpdateState(written)
	}
}

// event tells about a pod, or about one of its containers.
func (n *Node) event(pod *v1.Pod, container, kind, reason, format string, args ...any) {
	ref := v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	n.teller.tell(ref, kind, reason, fmt.Sprintf(format, args...))
}

func fieldPath(pod *v1.Pod, container string) string {
	field := "containers"
	switch {
	case isInit(pod, container):
		field = "initContainers"
	case isEphemeral(pod, container):
		field = "ephemeralContainers"
	}
	return "spec." + field + "{" + container + "}"
}
