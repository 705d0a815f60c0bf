package registry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/internal/rights"
)

// User is the identity of the registry.
const User = "system:gantry:registry"

// EnsureRole installs the role that the service needs, and gives it to [User]. It needs
// an administrator.
func EnsureRole(ctx context.Context, cfg *rest.Config) error {
	list := []string{"list"}
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		// Who logs in, and what they may do.
		{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}},
		{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}},
		// Policies of namespaces.
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"registrypolicies"}},
		{Verbs: []string{"update"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"registrypolicies/status"}},
		// What is deployed by digest is not collected.
		{Verbs: list, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: list, APIGroups: []string{"apps"}, Resources: []string{"deployments", "replicasets", "statefulsets", "daemonsets"}},
		{Verbs: list, APIGroups: []string{"batch"}, Resources: []string{"jobs", "cronjobs"}},
	})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	return ensureSecretReader(ctx, client)
}

// ensureSecretReader lets the registry read the Secrets of accounts, which are in one
// namespace, and no others.
func ensureSecretReader(ctx context.Context, client kubernetes.Interface) error {
	namespace := platform.SystemNamespace
	_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", namespace, err)
	}
	meta := metav1.ObjectMeta{Name: User, Namespace: namespace}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}
	if _, err := client.RbacV1().Roles(namespace).Get(ctx, User, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := client.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("install role %s/%s: %w", namespace, User, err)
		}
	} else if err != nil {
		return fmt.Errorf("read role %s/%s: %w", namespace, User, err)
	}
	_, err = client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: User}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: User},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("bind role %s/%s: %w", namespace, User, err)
	}
	return nil
}
