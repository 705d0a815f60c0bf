package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/translate"
)

// syncStatuses writes every status that differs from what it should be, and
// reports whether all that was needed succeeded.
func (c *Controller) syncStatuses(ctx context.Context) bool {
	c.mu.Lock()
	latest, due := c.latest, c.unsaid
	if latest == nil {
		c.mu.Unlock()
		return true
	}
	// Later translations change the outcome in place.
	latest = &outcome{result: new(*latest.result), where: latest.where}
	wanted := map[translate.RouteName][]gatewayv1.RouteParentStatus{}
	if due.all {
		maps.Copy(wanted, latest.result.Routes)
	} else {
		for name := range due.routes {
			wanted[name] = latest.result.Routes[name]
		}
	}
	c.unsaid = unsaid{routes: map[translate.RouteName]bool{}}
	c.mu.Unlock()
	err := errors.Join(
		c.writeClasses(ctx, latest.result),
		c.writeGateways(ctx, latest.result),
		c.writeListenerSets(ctx, latest.result),
		c.writeRoutes(ctx, due, wanted),
		c.writeBackendTLS(ctx, latest.result),
		c.writeIngresses(ctx, latest),
		c.writePolicies(ctx, latest.result),
		c.writeEvents(ctx, latest.result),
	)
	if err != nil {
		c.mu.Lock()
		c.unsaid.all = c.unsaid.all || due.all
		maps.Copy(c.unsaid.routes, due.routes)
		c.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		c.log.Warn("write status, will try again", "error", err)
	}
	return err == nil
}

// harmless drops the errors after which a new event brings the next try.
func harmless(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (c *Controller) writeClasses(ctx context.Context, r *translate.Result) (failed error) {
	for _, class := range all[*gatewayv1.GatewayClass](c.caches.classes) {
		want, ours := r.Classes[class.Name]
		if !ours {
			continue
		}
		want.Conditions = merge(class.Status.Conditions, want.Conditions)
		if equality.Semantic.DeepEqual(class.Status, want) {
			continue
		}
		class = class.DeepCopy()
		class.Status = want
		_, err := c.cfg.Gateway.GatewayV1().GatewayClasses().UpdateStatus(ctx, class, metav1.UpdateOptions{})
		failed = errors.Join(failed, wrap("GatewayClass", class, err))
	}
	return failed
}

func (c *Controller) writeGateways(ctx context.Context, r *translate.Result) (failed error) {
	for _, gateway := range all[*gatewayv1.Gateway](c.caches.gateways) {
		want, ours := r.Gateways[nameOf(gateway)]
		if !ours {
			continue
		}
		want = *want.DeepCopy()
		want.Conditions = merge(gateway.Status.Conditions, want.Conditions)
		mergeListeners(gateway.Status.Listeners, want.Listeners, func(l *gatewayv1.ListenerStatus) (gatewayv1.SectionName, *[]metav1.Condition) {
			return l.Name, &l.Conditions
		})
		if equality.Semantic.DeepEqual(gateway.Status, want) {
			continue
		}
		gateway = gateway.DeepCopy()
		gateway.Status = want
		_, err := c.cfg.Gateway.GatewayV1().Gateways(gateway.Namespace).UpdateStatus(ctx, gateway, metav1.UpdateOptions{})
		failed = errors.Join(failed, wrap("Gateway", gateway, err))
	}
	return failed
}

func (c *Controller) writeListenerSets(ctx context.Context, r *translate.Result) (failed error) {
	for _, set := range all[*gatewayv1.ListenerSet](c.caches.listenerSets) {
		want, ours := r.ListenerSets[nameOf(set)]
		if !ours {
			continue
		}
		want = *want.DeepCopy()
		want.Conditions = merge(set.Status.Conditions, want.Conditions)
		mergeListeners(set.Status.Listeners, want.Listeners, func(l *gatewayv1.ListenerEntryStatus) (gatewayv1.SectionName, *[]metav1.Condition) {
			return l.Name, &l.Conditions
		})
		if equality.Semantic.DeepEqual(set.Status, want) {
			continue
		}
		set = set.DeepCopy()
		set.Status = want
		_, err := c.cfg.Gateway.GatewayV1().ListenerSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
		failed = errors.Join(failed, wrap("ListenerSet", set, err))
	}
	return failed
}

// writeRoutes writes the parents of the routes that are due, of all kinds.
func (c *Controller) writeRoutes(ctx context.Context, due unsaid, wanted map[translate.RouteName][]gatewayv1.RouteParentStatus) error {
	api := c.cfg.Gateway.GatewayV1()
	return errors.Join(
		writeParents(ctx, wanted, "HTTPRoute", which[*gatewayv1.HTTPRoute](c.caches.httpRoutes, due, "HTTPRoute"),
			func(o *gatewayv1.HTTPRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			func(n string) statusWriter[*gatewayv1.HTTPRoute] { return api.HTTPRoutes(n) }),
		writeParents(ctx, wanted, "GRPCRoute", which[*gatewayv1.GRPCRoute](c.caches.grpcRoutes, due, "GRPCRoute"),
			func(o *gatewayv1.GRPCRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			func(n string) statusWriter[*gatewayv1.GRPCRoute] { return api.GRPCRoutes(n) }),
		writeParents(ctx, wanted, "TLSRoute", which[*gatewayv1.TLSRoute](c.caches.tlsRoutes, due, "TLSRoute"),
			func(o *gatewayv1.TLSRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			func(n string) statusWriter[*gatewayv1.TLSRoute] { return api.TLSRoutes(n) }),
		writeParents(ctx, wanted, "TCPRoute", which[*gatewayv1.TCPRoute](c.caches.tcpRoutes, due, "TCPRoute"),
			func(o *gatewayv1.TCPRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			func(n string) statusWriter[*gatewayv1.TCPRoute] { return api.TCPRoutes(n) }),
	)
}

// which returns the routes of a kind that are due.
func which[T any](f *follower, due unsaid, kind string) []T {
	if due.all {
		return all[T](f)
	}
	var list []T
	for name := range due.routes {
		if o, exists, _ := f.GetByKey(name.NamespacedName.String()); exists && name.Kind == kind {
			list = append(list, o.(T))
		}
	}
	return list
}

// routeObject is a route of a typed client.
type routeObject[T any] interface {
	metav1.Object
	DeepCopy() T
}

// statusWrites is how many statuses of routes are written at a time: an API that writes to disk
// needs no longer for a few than for one.
const statusWrites = 8

// writeParents replaces this controller's parents in the status of routes of
// one kind and leaves those of other controllers.
func writeParents[T routeObject[T]](ctx context.Context, wanted map[translate.RouteName][]gatewayv1.RouteParentStatus, kind string, routes []T,
	statusOf func(T) *gatewayv1.RouteStatus, writer func(namespace string) statusWriter[T],
) error {
	var writing errgroup.Group
	writing.SetLimit(statusWrites)
	var failed errorList
	for _, route := range routes {
		present := statusOf(route).Parents
		want := parents(present, wanted[translate.RouteName{Kind: kind, NamespacedName: nameOf(route)}])
		if equality.Semantic.DeepEqual(present, want) {
			continue
		}
		route = route.DeepCopy()
		statusOf(route).Parents = want
		if want == nil {
			statusOf(route).Parents = []gatewayv1.RouteParentStatus{} // the field is required
		}
		writing.Go(func() error {
			_, err := writer(route.GetNamespace()).UpdateStatus(ctx, route, metav1.UpdateOptions{})
			failed.add(wrap(kind, route, err))
			return nil
		})
	}
	_ = writing.Wait() // whoever fails does not stop the others
	return errors.Join(failed.list...)
}

// errorList collects errors from several goroutines.
type errorList struct {
	mu   sync.Mutex
	list []error // guarded by mu
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, err)
}

// parents are those of other controllers, then ours.
func parents(present, ours []gatewayv1.RouteParentStatus) (want []gatewayv1.RouteParentStatus) {
	for _, p := range present {
		if p.ControllerName != translate.ControllerName {
			want = append(want, p)
		}
	}
	for _, p := range ours {
		var before []metav1.Condition
		for _, b := range present {
			if b.ControllerName == p.ControllerName && equality.Semantic.DeepEqual(b.ParentRef, p.ParentRef) {
				before = b.Conditions
			}
		}
		p.Conditions = merge(before, p.Conditions)
		want = append(want, p)
	}
	return want
}

// writeBackendTLS replaces this controller's ancestors in the status of policies.
func (c *Controller) writeBackendTLS(ctx context.Context, r *translate.Result) (failed error) {
	for _, policy := range all[*gatewayv1.BackendTLSPolicy](c.caches.backendTLS) {
		want := ancestors(policy.Status.Ancestors, r.BackendTLS[nameOf(policy)])
		if equality.Semantic.DeepEqual(policy.Status.Ancestors, want) {
			continue
		}
		policy = policy.DeepCopy()
		policy.Status.Ancestors = want
		_, err := c.cfg.Gateway.GatewayV1().BackendTLSPolicies(policy.Namespace).UpdateStatus(ctx, policy, metav1.UpdateOptions{})
		failed = errors.Join(failed, wrap("BackendTLSPolicy", policy, err))
	}
	return failed
}

// ancestors are those of other controllers, then ours.
func ancestors(present, ours []gatewayv1.PolicyAncestorStatus) []gatewayv1.PolicyAncestorStatus {
	want := []gatewayv1.PolicyAncestorStatus{} // the field is required
	for _, a := range present {
		if a.ControllerName != translate.ControllerName {
			want = append(want, a)
		}
	}
	for _, a := range ours {
		var before []metav1.Condition
		for _, b := range present {
			if b.ControllerName == a.ControllerName && equality.Semantic.DeepEqual(b.AncestorRef, a.AncestorRef) {
				before = b.Conditions
			}
		}
		a.Conditions = merge(before, a.Conditions)
		want = append(want, a)
	}
	return want
}

func (c *Controller) writeIngresses(ctx context.Context, latest *outcome) (failed error) {
	balancer := latest.where.IngressStatus()
	for _, name := range latest.result.Ingresses {
		ingress := one[*networkingv1.Ingress](c.caches.ingresses, name.String())
		if ingress == nil || equality.Semantic.DeepEqual(ingress.Status.LoadBalancer, balancer) {
			continue
		}
		// A patch, because an update of an Ingress's status also writes its
		// annotations, and the cache does not hold them all.
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": balancer}})
		if err == nil {
			_, err = c.cfg.Kube.NetworkingV1().Ingresses(ingress.Namespace).Patch(ctx, ingress.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		}
		failed = errors.Join(failed, wrap("Ingress", ingress, err))
	}
	return failed
}

func wrap(kind string, o metav1.Object, err error) error {
	if harmless(err) == nil {
		return nil
	}
	return fmt.Errorf("update status of %s %s: %w", kind, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, err)
}

// mergeListeners merges the conditions of listeners with the same name.
func mergeListeners[L any](present, want []L, parts func(*L) (gatewayv1.SectionName, *[]metav1.Condition)) {
	before := map[gatewayv1.SectionName][]metav1.Condition{}
	for i := range present {
		name, conditions := parts(&present[i])
		before[name] = *conditions
	}
	for i := range want {
		name, conditions := parts(&want[i])
		*conditions = merge(before[name], *conditions)
	}
}

// merge gives the wanted conditions the transition times of the present ones,
// or now where the status differs.
func merge(present, want []metav1.Condition) []metav1.Condition {
	merged := make([]metav1.Condition, len(want))
	for i, w := range want {
		if p := meta.FindStatusCondition(present, w.Type); p != nil && p.Status == w.Status {
			w.LastTransitionTime = p.LastTransitionTime
		} else {
			w.LastTransitionTime = metav1.Now()
		}
		merged[i] = w
	}
	return merged
}
