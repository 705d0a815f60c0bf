package controller

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// backends compiles the policies of Services, of which there are few.
func (s *caches) backends() *translate.BackendPolicies {
	if s.backendPolicies == nil {
		return nil
	}
	return translate.NewBackendPolicies(all[*v1alpha1.BackendPolicy](s.backendPolicies), s.service)
}

// servicesChanged notes that the policy of any Service may have changed.
func (c *Controller) servicesChanged() {
	for _, s := range all[metav1.Object](c.caches.services) {
		c.serviceChanged(nameOf(s))
	}
	c.statuses.set()
}
