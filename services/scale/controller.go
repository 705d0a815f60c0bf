package scale

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/demand"
)

// controller keeps one scaler at work for each policy.
type controller struct {
	cfg      Config
	clients  clients
	metrics  *metrics
	gateways *demand.Follower
	kinds    kinds

	policies, services, autoscalers cache.SharedIndexInformer

	mu      sync.Mutex // guards scalers
	scalers map[types.NamespacedName]*scaler
	working sync.WaitGroup // scalers
}

// byNamespace is the index that all informers have.
const byNamespace = cache.NamespaceIndex

func newController(cfg Config, client clients, gateways *demand.Follower) (*controller, error) {
	c := &controller{
		cfg: cfg, clients: client, metrics: newMetrics(cfg.Register), gateways: gateways,
		kinds: kinds{discovery: client.discovery}, scalers: map[types.NamespacedName]*scaler{},
	}
	all := metav1.NamespaceAll
	c.policies = follow(client.policies, client.policies.ScalePolicies(all), &v1alpha1.ScalePolicy{})
	c.services = follow(client.kube, client.kube.CoreV1().Services(all), &corev1.Service{})
	c.autoscalers = follow(client.kube, client.kube.AutoscalingV2().HorizontalPodAutoscalers(all), &autoscalingv2.HorizontalPodAutoscaler{})
	for _, i := range c.informers() {
		if err := i.SetTransform(trim); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *controller) informers() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{c.policies, c.services, c.autoscalers}
}

// source is the part of a typed client that an informer needs.
type source[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func follow[L runtime.Object](client any, a source[L], example runtime.Object) cache.SharedIndexInformer {
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return a.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return a.Watch(ctx, o)
		},
	}, client)
	return cache.NewSharedIndexInformer(lw, example, 0, cache.Indexers{byNamespace: cache.MetaNamespaceIndexFunc})
}

// trim drops what takes memory and is not read here.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, ResourceVersion: o.ResourceVersion},
			Spec:       corev1.ServiceSpec{Selector: o.Spec.Selector},
		}, nil
	case *autoscalingv2.HorizontalPodAutoscaler:
		return &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{
				Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion, CreationTimestamp: o.CreationTimestamp},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: o.Spec.ScaleTargetRef},
		}, nil
	}
	return o, nil
}

// run works until ctx ends.
func (c *controller) run(ctx context.Context) {
	var running sync.WaitGroup
	synced := make([]cache.InformerSynced, 0, 3)
	for _, i := range c.informers() {
		running.Go(func() { i.RunWithContext(ctx) })
		synced = append(synced, i.HasSynced)
	}
	defer running.Wait()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return
	}
	on(c.policies, func(o *v1alpha1.ScalePolicy) { c.policyChanged(ctx, o) })
	// A Service may come to belong to a target; another policy or autoscaler may conflict, or no longer.
	on(c.services, func(o *corev1.Service) { c.wake(o.Namespace) })
	on(c.autoscalers, func(o *autoscalingv2.HorizontalPodAutoscaler) { c.wake(o.Namespace) })
	<-ctx.Done()
	c.working.Wait()
}

// on calls fn whenever an object has changed, or is gone.
func on[T any](i cache.SharedIndexInformer, fn func(T)) {
	changed := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if t, ok := o.(T); ok {
			fn(t)
		}
	}
	_, _ = i.AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only for an informer that was stopped
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed,
	})
}

// policyChanged starts, wakes or ends the scaler of a policy, and wakes the others of its
// namespace when it is there no more: they may have been in conflict with it.
func (c *controller) policyChanged(ctx context.Context, changed *v1alpha1.ScalePolicy) {
	name := types.NamespacedName{Namespace: changed.Namespace, Name: changed.Name}
	present := c.policy(name)
	c.mu.Lock()
	s := c.scalers[name]
	switch {
	case present == nil && s != nil:
		s.end()
		delete(c.scalers, name)
		c.metrics.forget(name.Namespace, name.Name)
	case present != nil && s == nil && ctx.Err() == nil:
		scalerCtx, end := context.WithCancel(ctx)
		s = newScaler(c, name, end)
		c.scalers[name] = s
		c.working.Go(func() { s.run(scalerCtx) })
	}
	c.mu.Unlock()
	if present == nil || s == nil || s.newGeneration(present) {
		c.wake(name.Namespace)
	}
}

// wake lets the scalers of a namespace look at everything again.
func (c *controller) wake(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.scalers {
		if name.Namespace == namespace {
			s.wake()
		}
	}
}

// policy is the present state of a policy, or nil.
func (c *controller) policy(name types.NamespacedName) *v1alpha1.ScalePolicy {
	o, _, _ := c.policies.GetStore().GetByKey(name.String())
	p, _ := o.(*v1alpha1.ScalePolicy)
	return p
}

// rival says in words which other policy or autoscaler scales the target of p and was there
// before it, or is empty.
func (c *controller) rival(p *v1alpha1.ScalePolicy) string {
	ref := p.Spec.TargetRef
	for _, other := range in[*v1alpha1.ScalePolicy](c.policies, p.Namespace) {
		if other.Name != p.Name && other.Spec.TargetRef == ref && older(other, p) {
			return fmt.Sprintf("ScalePolicy %s, which is older, scales the same target", other.Name)
		}
	}
	for _, other := range in[*autoscalingv2.HorizontalPodAutoscaler](c.autoscalers, p.Namespace) {
		if sameTarget(other.Spec.ScaleTargetRef, ref) && older(other, p) {
			return fmt.Sprintf("HorizontalPodAutoscaler %s, which is older, scales the same target", other.Name)
		}
	}
	return ""
}

// youngerAutoscalers are those that scale the target of p too, although p was there before.
func (c *controller) youngerAutoscalers(p *v1alpha1.ScalePolicy) (list []*autoscalingv2.HorizontalPodAutoscaler) {
	for _, other := range in[*autoscalingv2.HorizontalPodAutoscaler](c.autoscalers, p.Namespace) {
		if sameTarget(other.Spec.ScaleTargetRef, p.Spec.TargetRef) && !older(other, p) {
			list = append(list, other)
		}
	}
	return list
}

func sameTarget(a autoscalingv2.CrossVersionObjectReference, b v1alpha1.ScaleTargetReference) bool {
	return a.Kind == b.Kind && a.Name == b.Name && groupOf(a.APIVersion) == groupOf(b.APIVersion)
}

// older tells which of two objects was there before; of the same second, by name.
func older(a, b metav1.Object) bool {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	return cmp.Or(at.Compare(bt.Time), cmp.Compare(a.GetName(), b.GetName())) < 0
}

// servicesOf are the names of the Services whose requests go to the target.
func (c *controller) servicesOf(p *v1alpha1.ScalePolicy, podLabels labels.Set) []string {
	if len(p.Spec.Services) > 0 {
		return slices.Sorted(slices.Values(p.Spec.Services))
	}
	var names []string
	for _, s := range in[*corev1.Service](c.services, p.Namespace) {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(podLabels) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// in lists the objects of a namespace.
func in[T any](i cache.SharedIndexInformer, namespace string) (list []T) {
	found, err := i.GetIndexer().ByIndex(byNamespace, namespace)
	if err != nil {
		panic(fmt.Sprintf("index %q is missing: %v", byNamespace, err)) // made in follow
	}
	for _, o := range found {
		if t, ok := o.(T); ok {
			list = append(list, t)
		}
	}
	return list
}
