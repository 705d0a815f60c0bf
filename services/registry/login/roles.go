package login

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/rights"
)

// The verbs of who may pull, and of who may also push and overwrite.
var (
	PullVerbs = []string{"get", "list"}
	PushVerbs = []string{"get", "list", "create", "update"}
)

// EnsureRoles gives who may view, edit or administer a namespace the like rights to its
// repositories. client must be an administrator's.
func EnsureRoles(ctx context.Context, client kubernetes.Interface) error {
	for role, verbs := range map[string][]string{
		"view": PullVerbs, "edit": append(slices.Clone(PushVerbs), "delete"),
	} {
		err := rights.EnsureRole(ctx, client, &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{
				Name: "gantry:registry:" + role, Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-" + role: "true"},
			},
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{Group}, Resources: []string{Resource}, Verbs: verbs}},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Grant is what an account may do with the repositories that a pattern names: NAMESPACE/*,
// NAMESPACE/NAME, or * for all.
type Grant struct {
	Pattern string
	Verbs   []string
}

// CheckPattern refuses what is no pattern of a [Grant].
func CheckPattern(pattern string) error {
	namespace, name := Split(pattern)
	switch {
	case pattern == "*":
		return nil
	case namespace == "" || name == "" || strings.Contains(namespace, "*") || strings.Contains(name, "*") && name != "*":
		return fmt.Errorf("%q names no repositories: use NAMESPACE/*, NAMESPACE/NAME, or * for all", pattern)
	}
	return nil
}

// Bind gives an account rights, by Roles and RoleBindings of its Secret's name. Namespaces
// that are not there yet are refused.
func Bind(ctx context.Context, client kubernetes.Interface, account string, grants []Grant) error {
	rules := map[string][]rbacv1.PolicyRule{} // by namespace
	for _, g := range grants {
		if err := CheckPattern(g.Pattern); err != nil {
			return err
		}
		namespace, name := Split(g.Pattern)
		rule := rbacv1.PolicyRule{APIGroups: []string{Group}, Resources: []string{Resource}, Verbs: g.Verbs}
		if namespace != "" && name != "*" {
			rule.ResourceNames = []string{name}
		}
		rules[namespace] = append(rules[namespace], rule)
	}
	for namespace, rules := range rules {
		if err := bind(ctx, client, account, namespace, rules); err != nil {
			return fmt.Errorf("grant rights in namespace %s: %w", namespace, err)
		}
	}
	return nil
}

func bind(ctx context.Context, client kubernetes.Interface, account, namespace string, rules []rbacv1.PolicyRule) error {
	rbac := client.RbacV1()
	meta := metav1.ObjectMeta{Name: SecretPrefix + account, Namespace: namespace, Labels: accountLabels(account)}
	to := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: AccountUser + account}}
	if namespace == "" {
		if _, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, Subjects: to, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		}, metav1.CreateOptions{})
		return err
	}
	if _, err := rbac.Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, Subjects: to, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
	}, metav1.CreateOptions{})
	return err
}

// accountLabels mark what belongs to an account.
func accountLabels(account string) map[string]string {
	return map[string]string{"gantry.dev/registry-account": account}
}

// Unbind takes all rights away that [Bind] gave.
func Unbind(ctx context.Context, client kubernetes.Interface, account string) error {
	rbac := client.RbacV1()
	mine := metav1.ListOptions{LabelSelector: "gantry.dev/registry-account=" + account}
	bindings, err := rbac.RoleBindings(metav1.NamespaceAll).List(ctx, mine)
	if err != nil {
		return err
	}
	for _, b := range bindings.Items {
		if err := ignoreNotFound(rbac.RoleBindings(b.Namespace).Delete(ctx, b.Name, metav1.DeleteOptions{})); err != nil {
			return err
		}
		if err := ignoreNotFound(rbac.Roles(b.Namespace).Delete(ctx, b.Name, metav1.DeleteOptions{})); err != nil {
			return err
		}
	}
	if err := ignoreNotFound(rbac.ClusterRoleBindings().Delete(ctx, SecretPrefix+account, metav1.DeleteOptions{})); err != nil {
		return err
	}
	return ignoreNotFound(rbac.ClusterRoles().Delete(ctx, SecretPrefix+account, metav1.DeleteOptions{}))
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
