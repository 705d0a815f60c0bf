// Package rights installs the roles of services.
//
// Grant may run at every start: what is installed already costs two reads.
//
// Imported by the services, which each know what they need.
package rights

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Grant makes a ClusterRole of a name have these rules, and the user of the same name have the
// role. cfg must be an administrator's.
func Grant(ctx context.Context, cfg *rest.Config, name string, rules []rbacv1.PolicyRule) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("grant role %s: %w", name, err)
	}
	if err := EnsureRole(ctx, client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}); err != nil {
		return err
	}
	return ensureBinding(ctx, client, name)
}

// Role is a ClusterRole with its type, so that it can be printed.
func Role(name string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules,
	}
}

// EnsureRole makes a ClusterRole have the rules and labels of the given one.
func EnsureRole(ctx context.Context, client kubernetes.Interface, role *rbacv1.ClusterRole) error {
	roles := client.RbacV1().ClusterRoles()
	present, err := roles.Get(ctx, role.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = roles.Create(ctx, role, metav1.CreateOptions{})
	case err == nil && (!equality.Semantic.DeepEqual(present.Rules, role.Rules) || !has(present.Labels, role.Labels)):
		update := present.DeepCopy()
		update.Rules = role.Rules
		for k, v := range role.Labels {
			metav1.SetMetaDataLabel(&update.ObjectMeta, k, v)
		}
		_, err = roles.Update(ctx, update, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("install role %s: %w", role.Name, err)
	}
	return nil
}

// LetAsk installs a ClusterRole whose holder may send requests with these verbs to paths that are no
// resources. cfg must be an administrator's.
func LetAsk(ctx context.Context, cfg *rest.Config, name string, verbs []string, paths ...string) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install role %s: %w", name, err)
	}
	return EnsureRole(ctx, client, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      []rbacv1.PolicyRule{{Verbs: verbs, NonResourceURLs: paths}},
	})
}

func has(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func ensureBinding(ctx context.Context, client kubernetes.Interface, name string) error {
	return Bind(ctx, client, name, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name})
}

// Bind gives a ClusterRole to somebody, unless there is a binding of its name.
func Bind(ctx context.Context, client kubernetes.Interface, name string, to rbacv1.Subject) error {
	bindings := client.RbacV1().ClusterRoleBindings()
	_, err := bindings.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Subjects:   []rbacv1.Subject{to},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("bind role %s: %w", name, err)
	}
	return nil
}

// GrantIn is Grant for a Role of one namespace, which must exist.
func GrantIn(ctx context.Context, cfg *rest.Config, namespace, name string, rules []rbacv1.PolicyRule) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("grant role %s in %s: %w", name, namespace, err)
	}
	roles := client.RbacV1().Roles(namespace)
	present, err := roles.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = roles.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(present.Rules, rules):
		update := present.DeepCopy()
		update.Rules = rules
		_, err = roles.Update(ctx, update, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("install role %s in %s: %w", name, namespace, err)
	}
	bindings := client.RbacV1().RoleBindings(namespace)
	_, err = bindings.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = bindings.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("bind role %s in %s: %w", name, namespace, err)
	}
	return nil
}
