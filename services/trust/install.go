package trust

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// Ensure installs the roles that the service needs and gives them to User. It needs an
// administrator. The kind TrustPolicy is installed together with the gateway's.
func Ensure(ctx context.Context, cfg *rest.Config) error {
	const admission = "admissionregistration.k8s.io"
	configurations := []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"trustpolicies"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"trustpolicies/status"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"namespaces"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
		{Verbs: []string{"create"}, APIGroups: []string{admission}, Resources: configurations},
		{Verbs: []string{"get", "update", "delete"}, APIGroups: []string{admission}, Resources: configurations, ResourceNames: []string{configurationName}},
	})
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("grant role in %s: %w", Namespace, err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if _, err := kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", Namespace, err)
	}
	// Keys and the registries' login lie in this namespace only; the installation's own key is made on first need.
	return rights.GrantIn(ctx, cfg, Namespace, User, []rbacv1.PolicyRule{
		{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
		{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{certificateSecret}},
	})
}
