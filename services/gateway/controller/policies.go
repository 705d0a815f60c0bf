package controller

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// writePolicies writes the statuses of Gantry's own policies.
func (c *Controller) writePolicies(ctx context.Context, r *translate.Result) (failed error) {
	if c.cfg.Own == nil {
		return nil
	}
	for _, p := range all[*v1alpha1.AccessPolicy](c.caches.accessPolicies) {
		want, known := r.AccessPolicyStatus(nameOf(p))
		failed = errors.Join(failed, writePolicy(ctx, c.cfg.Own.AccessPolicies(p.Namespace), "AccessPolicy", p, &p.Status, want, known,
			func(p *v1alpha1.AccessPolicy, s gatewayv1.PolicyStatus) { p.Status = s }))
	}
	for _, p := range all[*v1alpha1.TrafficPolicy](c.caches.trafficPolicies) {
		want, known := r.TrafficPolicies[nameOf(p)]
		failed = errors.Join(failed, writePolicy(ctx, c.cfg.Own.TrafficPolicies(p.Namespace), "TrafficPolicy", p, &p.Status, want, known,
			func(p *v1alpha1.TrafficPolicy, s gatewayv1.PolicyStatus) { p.Status = s }))
	}
	backends := c.caches.backends()
	for _, p := range all[*v1alpha1.BackendPolicy](c.caches.backendPolicies) {
		want, known := backends.Statuses[nameOf(p)]
		failed = errors.Join(failed, writePolicy(ctx, c.cfg.Own.BackendPolicies(p.Namespace), "BackendPolicy", p, &p.Status, want, known,
			func(p *v1alpha1.BackendPolicy, s gatewayv1.PolicyStatus) { p.Status = s }))
	}
	return failed
}

// policy is a kind with a PolicyStatus.
type policy[P any] interface {
	metav1.Object
	runtime.Object
	DeepCopy() P
}

type statusWriter[P any] interface {
	UpdateStatus(context.Context, P, metav1.UpdateOptions) (P, error)
}

// writePolicy replaces this controller's ancestors in a status and leaves those of
// other controllers.
func writePolicy[P policy[P]](ctx context.Context, client statusWriter[P], kind string, p P, present *gatewayv1.PolicyStatus, want gatewayv1.PolicyStatus, known bool, set func(P, gatewayv1.PolicyStatus)) error {
	if !known {
		return nil // it is newer than the translation
	}
	merged := gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}} // the field is required
	for _, a := range present.Ancestors {
		if a.ControllerName != translate.ControllerName {
			merged.Ancestors = append(merged.Ancestors, a)
		}
	}
	for _, a := range want.Ancestors {
		var before []metav1.Condition
		for _, b := range present.Ancestors {
			if b.ControllerName == a.ControllerName && equality.Semantic.DeepEqual(b.AncestorRef, a.AncestorRef) {
				before = b.Conditions
			}
		}
		a.Conditions = merge(before, a.Conditions)
		merged.Ancestors = append(merged.Ancestors, a)
	}
	if len(merged.Ancestors) > maxAncestors {
		merged.Ancestors = merged.Ancestors[:maxAncestors]
	}
	if equality.Semantic.DeepEqual(*present, merged) {
		return nil
	}
	p = p.DeepCopy()
	set(p, merged)
	_, err := client.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	return wrap(kind, p, err)
}

// maxAncestors is how many the status of a policy may have.
const maxAncestors = 16
