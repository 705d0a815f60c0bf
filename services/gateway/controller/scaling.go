package controller

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// Requests wait for the endpoints of a Service that the status of a ScalePolicy names: whoever
// adjusts the number of replicas writes it there.

// indexScaledServices prepares the index of ScalePolicies by the Services that they name.
func (s *caches) indexScaledServices() error {
	return s.scalePolicies.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		var keys []string
		for _, name := range scaledServices(o.(*v1alpha1.ScalePolicy)) {
			keys = append(keys, name.String())
		}
		return keys, nil
	}})
}

// scaledServices are those whose requests wait, as a policy says.
func scaledServices(p *v1alpha1.ScalePolicy) (names []types.NamespacedName) {
	if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ScaleAccepted) {
		return nil
	}
	for _, name := range p.Status.Services {
		names = append(names, types.NamespacedName{Namespace: p.Namespace, Name: name})
	}
	return names
}

// scaled is how requests wait for a Service, or nil.
func (s *caches) scaled(service types.NamespacedName) *route.Scaled {
	if s.scalePolicies == nil {
		return nil
	}
	found, err := s.scalePolicies.ByIndex(byService, service.String())
	if err != nil {
		panic(fmt.Sprintf("index %q is missing: %v", byService, err)) // made in newCaches
	}
	if len(found) == 0 {
		return nil
	}
	oldest := slices.MinFunc(found, func(a, b any) int {
		p, q := a.(*v1alpha1.ScalePolicy), b.(*v1alpha1.ScalePolicy)
		return cmp.Or(p.CreationTimestamp.Compare(q.CreationTimestamp.Time), cmp.Compare(p.Name, q.Name))
	}).(*v1alpha1.ScalePolicy)
	hold := &oldest.Spec.Hold
	scaled := &route.Scaled{Patience: time.Duration(hold.TimeoutSeconds) * time.Second}
	if hold.Requests != nil {
		scaled.Waiting = int(*hold.Requests)
	}
	if hold.Bytes != nil {
		scaled.Bytes = hold.Bytes.Value()
	}
	if hold.InFlightPerReplica != nil {
		scaled.PerEndpoint = *hold.InFlightPerReplica
	}
	return scaled
}

// scalePolicyChanged has the Services of a policy looked at again: those that it names now, and
// those that it named.
func (c *Controller) scalePolicyChanged(p *v1alpha1.ScalePolicy) {
	name := nameOf(p)
	now := scaledServices(p)
	if !c.caches.has(p) {
		now = nil
	}
	c.mu.Lock()
	before := c.scaledBy[name]
	if c.scaledBy[name] = now; now == nil {
		delete(c.scaledBy, name)
	}
	c.mu.Unlock()
	for _, service := range append(before, now...) {
		c.serviceChanged(service)
	}
}

func (s *caches) has(p *v1alpha1.ScalePolicy) bool {
	return one[*v1alpha1.ScalePolicy](s.scalePolicies, nameOf(p).String()) != nil
}
