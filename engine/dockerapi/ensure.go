package dockerapi

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// User is the identity of the server.
const User = "system:gantry:docker"

var all = []string{"get", "list", "watch", "create", "update", "patch", "delete"}

// rules are the server's rights in its namespace. Beyond it, it lists pods, to know which
// images they use.
var rules = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"pods", "pods/resize", "secrets", "configmaps", "services"}, Verbs: all},
	{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices", "endpointslices/restricted"}, Verbs: all},
	{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: all},
}

var rulesBeyond = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
	{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{Namespace}, Verbs: []string{"get"}},
}

// Ensure makes the namespace and gives [User] its rights. cfg must be an administrator's.
func Ensure(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if err := ensure(ctx, client); err != nil {
		return fmt.Errorf("prepare namespace %s for the Docker API: %w", Namespace, err)
	}
	return nil
}

func ensure(ctx context.Context, client kubernetes.Interface) error {
	namespace := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace, Labels: map[string]string{
		// Who may use the socket is root here anyway: containers are as free as docker's.
		"pod-security.kubernetes.io/enforce": "privileged"}}}
	_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if err = ignore(err, apierrors.IsAlreadyExists); err != nil {
		return err
	}
	subject := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: User}}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: User, Namespace: Namespace}, Rules: rules}
	roles := client.RbacV1().Roles(Namespace)
	if old, err := roles.Get(ctx, User, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := roles.Create(ctx, role, metav1.CreateOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if !equality.Semantic.DeepEqual(old.Rules, rules) {
		if _, err := roles.Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	_, err = client.RbacV1().RoleBindings(Namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: role.ObjectMeta, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: User}}, metav1.CreateOptions{})
	if err = ignore(err, apierrors.IsAlreadyExists); err != nil {
		return err
	}
	_, err = client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: User}, Rules: rulesBeyond}, metav1.CreateOptions{})
	if err = ignore(err, apierrors.IsAlreadyExists); err != nil {
		return err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: User}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: User}}, metav1.CreateOptions{})
	if err = ignore(err, apierrors.IsAlreadyExists); err != nil {
		return err
	}
	return awaitAccount(ctx, client)
}

// awaitAccount waits for the account that pods of a new namespace need.
func awaitAccount(ctx context.Context, client kubernetes.Interface) error {
	for {
		_, err := client.CoreV1().ServiceAccounts(Namespace).Get(ctx, "default", metav1.GetOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its service account does not appear: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
