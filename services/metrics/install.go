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
	if err := rights.Grant(ctx, cfg, User, Role().Rules); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if err := rights.EnsureRole(ctx, client, readers()); err != nil {
		return err
	}
	return register(ctx, cfg)
}

// Role is what the service may do.
func Role() *rbacv1.ClusterRole {
	return rights.Role(User, []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"nodes", "pods", "services"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes/proxy"}},
	})
}

// readers lets those see figures who may look at pods. The name and the labels are those that
// the metrics server uses.
func readers() *rbacv1.ClusterRole {
	role := rights.Role("system:aggregated-metrics-reader", []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list"}, APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods", "nodes"}},
		{Verbs: []string{"get", "list"}, APIGroups: []string{"custom.metrics.k8s.io"}, Resources: []string{"services/*"}},
		{Verbs: []string{"get", "list"}, APIGroups: []string{"external.metrics.k8s.io"}, Resources: []string{"*"}},
	})
	role.Labels = map[string]string{
		"rbac.authorization.k8s.io/aggregate-to-admin": "true",
		"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
		"rbac.authorization.k8s.io/aggregate-to-view":  "true",
	}
	return role
}

// Registration is what makes an API server ask the service: for a cluster, where its
// certificate is its own and only says that it is the one behind the Service.
func Registration() []any {
	list := []any{readers()}
	for _, s := range apiServices() {
		s.Spec.InsecureSkipTLSVerify = true
		list = append(list, s)
	}
	return list
}

func apiServices() (list []*apiregistrationv1.APIService) {
	for i, gv := range []metav1.GroupVersion{
		{Group: "metrics.k8s.io", Version: "v1beta1"},
		{Group: "custom.metrics.k8s.io", Version: "v1beta2"},
		{Group: "custom.metrics.k8s.io", Version: "v1beta1"},
		{Group: "external.metrics.k8s.io", Version: "v1beta1"},
	} {
		list = append(list, &apiregistrationv1.APIService{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
			ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
			Spec: apiregistrationv1.APIServiceSpec{
				Group: gv.Group, Version: gv.Version, Service: &apiregistrationv1.ServiceReference{Namespace: Namespace, Name: Name},
				GroupPriorityMinimum: 100, VersionPriority: int32(100 - i),
			},
		})
	}
	return list
}

func register(ctx context.Context, cfg *rest.Config) error {
	client, err := aggregatorclient.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	services := client.ApiregistrationV1().APIServices()
	for _, s := range apiServices() {
		_, err := services.Get(ctx, s.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = services.Create(ctx, s, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("register %s: %w", s.Name, err)
		}
	}
	return nil
}
