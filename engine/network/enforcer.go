package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/engine/network/nat"
	"github.com/gantryhq/gantry/engine/network/policy"
)

// enforcer keeps the kernel's network policies as the API has them. It watches
// NetworkPolicies, and pods and namespaces only once there is a policy: most
// instances have none and should not pay for it.
type enforcer struct {
	factory informers.SharedInformerFactory
	leases  *leases
	table   *nat.Table
	dns     netip.Addr

	wake   chan struct{}
	synced chan struct{} // closed when what existed at the start is enforced

	mu      sync.Mutex // held while rules are computed and set
	watched bool       // pods and namespaces are
}

const (
	byUID = "uid"
	// protectTimeout is how long a new pod waits for the API's news of itself.
	protectTimeout = 5 * time.Second
)

func newEnforcer(client kubernetes.Interface, l *leases, t *nat.Table, dns netip.Addr) *enforcer {
	trim := func(obj any) (any, error) {
		if m, err := meta.Accessor(obj); err == nil {
			m.SetManagedFields(nil)
		}
		return obj, nil
	}
	return &enforcer{
		factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)),
		leases:  l, table: t, dns: dns,
		wake: make(chan struct{}, 1), synced: make(chan struct{}),
	}
}

// run follows the API until ctx ends.
func (e *enforcer) run(ctx context.Context) error {
	policies := e.factory.Networking().V1().NetworkPolicies().Informer()
	if _, err := policies.AddEventHandler(e.onChange(nil)); err != nil {
		return fmt.Errorf("watch network policies: %w", err)
	}
	defer e.factory.Shutdown()
	e.factory.Start(ctx.Done())
	if !waitSynced(ctx, policies.HasSynced) {
		return nil
	}
	const retryAfter = time.Second
	for first := true; ; {
		err := e.enforce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var retry <-chan time.Time
		if err != nil {
			slog.Error("network policies are out of date, trying again", "err", err)
			retry = time.After(retryAfter)
		} else if first {
			close(e.synced)
			first = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-retry:
		}
	}
}

// waitSynced looks every millisecond, where client-go's own function looks every 100.
func waitSynced(ctx context.Context, synced ...cache.InformerSynced) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all := true
		for _, s := range synced {
			all = all && s()
		}
		if all {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// onChange wakes the loop for changes that matter; a nil function means all do.
func (e *enforcer) onChange(differs func(before, after any) bool) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { e.changed() },
		UpdateFunc: func(before, after any) {
			if differs == nil || differs(before, after) {
				e.changed()
			}
		},
		DeleteFunc: func(any) { e.changed() },
	}
}

func (e *enforcer) changed() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// enforce computes the rules of this moment and brings them into the kernel.
func (e *enforcer) enforce(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	policies, err := e.factory.Networking().V1().NetworkPolicies().Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list network policies: %w", err)
	}
	if len(policies) == 0 && !e.watched {
		return nil
	}
	if err := e.watch(ctx); err != nil {
		return err
	}
	state, err := e.state(policies)
	if err != nil {
		return err
	}
	rules, err := policy.Compile(state)
	if err != nil {
		return err
	}
	return e.table.SetPolicy(rules)
}

// watch starts to follow pods and namespaces, once.
func (e *enforcer) watch(ctx context.Context) error {
	if e.watched {
		return nil
	}
	pods, namespaces := e.factory.Core().V1().Pods().Informer(), e.factory.Core().V1().Namespaces().Informer()
	err := pods.AddIndexers(cache.Indexers{byUID: func(obj any) ([]string, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		return []string{string(m.GetUID())}, nil
	}})
	_, err1 := pods.AddEventHandler(e.onChange(podDiffers))
	_, err2 := namespaces.AddEventHandler(e.onChange(func(a, b any) bool {
		return !maps.Equal(a.(*corev1.Namespace).Labels, b.(*corev1.Namespace).Labels)
	}))
	if err := errors.Join(err, err1, err2); err != nil {
		return fmt.Errorf("watch pods and namespaces: %w", err)
	}
	e.factory.Start(ctx.Done())
	if !waitSynced(ctx, pods.HasSynced, namespaces.HasSynced) {
		return ctx.Err()
	}
	e.watched = true
	return nil
}

// podDiffers reports whether a change of a pod can change the rules.
func podDiffers(before, after any) bool {
	a, b := before.(*corev1.Pod), after.(*corev1.Pod)
	return a.UID != b.UID || !maps.Equal(a.Labels, b.Labels) || !reflect.DeepEqual(ports(a), ports(b))
}

func ports(p *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, c := range p.Spec.InitContainers { // sidecars among them
		out = append(out, c.Ports...)
	}
	for _, c := range p.Spec.Containers {
		out = append(out, c.Ports...)
	}
	return out
}

// state is what the rules depend on: attached pods, with the addresses they really
// have, which is before the API knows them.
func (e *enforcer) state(policies []*networkingv1.NetworkPolicy) (policy.State, error) {
	s := policy.State{Policies: policies, Namespaces: map[string]map[string]string{}}
	namespaces, err := e.factory.Core().V1().Namespaces().Lister().List(labels.Everything())
	if err != nil {
		return s, fmt.Errorf("list namespaces: %w", err)
	}
	for _, ns := range namespaces {
		s.Namespaces[ns.Name] = ns.Labels
	}
	pods, err := e.factory.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return s, fmt.Errorf("list pods: %w", err)
	}
	for _, p := range pods {
		if le, ok := e.leases.get(string(p.UID)); ok {
			s.Pods = append(s.Pods, policy.Pod{Namespace: p.Namespace, Labels: p.Labels, IP: le.IP, Ports: ports(p)})
		}
	}
	s.Pods = append(s.Pods, dnsPod(e.dns))
	return s, nil
}

// dnsPod stands for cluster DNS, which is no pod here, in the form in which policies
// for other clusters select it.
func dnsPod(ip netip.Addr) policy.Pod {
	return policy.Pod{
		Namespace: "kube-system", Labels: map[string]string{"k8s-app": "kube-dns"}, IP: ip,
		Ports: []corev1.ContainerPort{
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 53},
			{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, ContainerPort: 53},
		},
	}
}

// protect returns once the policies that select a newly attached pod are enforced, so
// that none of its processes starts before.
func (e *enforcer) protect(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, protectTimeout)
	defer cancel()
	select {
	case <-e.synced:
	case <-ctx.Done():
		return fmt.Errorf("wait for network policies: %w", ctx.Err())
	}
	e.mu.Lock()
	watched := e.watched
	e.mu.Unlock()
	if !watched {
		return nil
	}
	pods := e.factory.Core().V1().Pods().Informer().GetIndexer()
	known := func() bool {
		found, err := pods.ByIndex(byUID, uid)
		return err == nil && len(found) > 0
	}
	if !waitSynced(ctx, known) {
		return fmt.Errorf("wait for the API's news of the pod, whose labels network policies need: %w", ctx.Err())
	}
	return e.enforce(ctx)
}
