package metrics

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/gantryhq/gantry/internal/rights"
)

const (
	// User is whom the service is, where it is a part of `gantry serve`.
	User = "system:gantry:metrics"
	// Namespace and Name are those of the Service that the API server finds it by.
	Namespace = "gantry-system"
	Name      = "metrics"
)

// Ensure installs the role that the service needs, gives it to User, lets everyone who may look
// at pods see what they use, and registers the APIs. An API that is registered for another
// Service stays that Service's. It needs an administrator.
func Ensure(ctx context.Context, cfg *rest.Config) error {
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"nodes", "pods", "services"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes/proxy"}},
	})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	err = rights.EnsureRole(ctx, client, &rbacv1.ClusterRole{
		// The name and labels that the metrics server uses.
		ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: map[string]string{
			"rbac.authorization.k8s.io/aggregate-to-admin": "true",
			"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
			"rbac.authorization.k8s.io/aggregate-to-view":  "true",
		}},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "list"}, APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods", "nodes"}},
			{Verbs: []string{"get", "list"}, APIGroups: []string{"custom.metrics.k8s.io"}, Resources: []string{"services/*"}},
			{Verbs: []string{"get", "list"}, APIGroups: []string{"external.metrics.k8s.io"}, Resources: []string{"*"}},
		},
	})
	if err != nil {
		return err
	}
	return register(ctx, cfg)
}

func register(ctx context.Context, cfg *rest.Config) error {
	client, err := aggregatorclient.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	services := client.ApiregistrationV1().APIServices()
	for i, gv := range []metav1.GroupVersion{
		{Group: "metrics.k8s.io", Version: "v1beta1"},
		{Group: "custom.metrics.k8s.io", Version: "v1beta2"},
		{Group: "custom.metrics.k8s.io", Version: "v1beta1"},
		{Group: "external.metrics.k8s.io", Version: "v1beta1"},
	} {
		name := gv.Version + "." + gv.Group
		_, err := services.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = services.Create(ctx, &apiregistrationv1.APIService{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: apiregistrationv1.APIServiceSpec{
					Group: gv.Group, Version: gv.Version, Service: &apiregistrationv1.ServiceReference{Namespace: Namespace, Name: Name},
					GroupPriorityMinimum: 100, VersionPriority: int32(100 - i),
				},
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("register %s: %w", name, err)
		}
	}
	return nil
}
