package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	latest := c.latest
	c.mu.Unlock()
	if latest == nil {
		return true
	}
	err := errors.Join(
		c.writeClasses(ctx, latest.result),
		c.writeGateways(ctx, latest.result),
		c.writeRoutes(ctx, latest.result),
		c.writeIngresses(ctx, latest),
		c.writePolicies(ctx, latest.result),
	)
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
		for i := range want.Listeners {
			var before []metav1.Condition
			for _, l := range gateway.Status.Listeners {
				if l.Name == want.Listeners[i].Name {
					before = l.Conditions
				}
			}
			want.Listeners[i].Conditions = merge(before, want.Listeners[i].Conditions)
		}
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

// writeRoutes replaces this controller's parents in the status of routes and
// leaves those of other controllers.
func (c *Controller) writeRoutes(ctx context.Context, r *translate.Result) (failed error) {
	for _, route := range all[*gatewayv1.HTTPRoute](c.caches.httpRoutes) {
		var want []gatewayv1.RouteParentStatus
		for _, p := range route.Status.Parents {
			if p.ControllerName != translate.ControllerName {
				want = append(want, p)
			}
		}
		for _, p := range r.Routes[nameOf(route)] {
			var before []metav1.Condition
			for _, b := range route.Status.Parents {
				if b.ControllerName == p.ControllerName && equality.Semantic.DeepEqual(b.ParentRef, p.ParentRef) {
					before = b.Conditions
				}
			}
			p.Conditions = merge(before, p.Conditions)
			want = append(want, p)
		}
		if equality.Semantic.DeepEqual(route.Status.Parents, want) {
			continue
		}
		route = route.DeepCopy()
		route.Status.Parents = want
		if want == nil {
			route.Status.Parents = []gatewayv1.RouteParentStatus{} // the field is required
		}
		_, err := c.cfg.Gateway.GatewayV1().HTTPRoutes(route.Namespace).UpdateStatus(ctx, route, metav1.UpdateOptions{})
		failed = errors.Join(failed, wrap("HTTPRoute", route, err))
	}
	return failed
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
