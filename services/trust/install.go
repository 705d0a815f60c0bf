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
	if err := rights.Grant(ctx, cfg, User, Role().Rules); err != nil {
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
	return rights.GrantIn(ctx, cfg, Namespace, User, SecretsRole().Rules)
}

// Role is what the service may do.
func Role() *rbacv1.ClusterRole {
	const admission = "admissionregistration.k8s.io"
	configurations := []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}
	return rights.Role(User, []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"trustpolicies"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"trustpolicies/status"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"namespaces"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
		{Verbs: []string{"create"}, APIGroups: []string{admission}, Resources: configurations},
		{Verbs: []string{"get", "update", "delete"}, APIGroups: []string{admission}, Resources: configurations, ResourceNames: []string{configurationName}},
	})
}

// SecretsRole is what it may do with Secrets, in its own namespace only: keys and the registries'
// login lie there, and what it makes itself, the installation's key and the webhooks' certificate.
func SecretsRole() *rbacv1.Role {
	return &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{Name: User, Namespace: Namespace},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
			{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{certificateSecret}},
		},
	}
}
