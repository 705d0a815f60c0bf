package console

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// visitors is the role of everyone, logged in or not, where the console is below the API's own
// address: they may load the page and log in. What they may see there is decided by their login.
const visitors = "gantry-console-visitors"

// EnsureRole lets everyone open the console below the API's address. It needs an administrator.
func EnsureRole(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("open the console to visitors: %w", err)
	}
	role := rights.Role(visitors, []rbacv1.PolicyRule{{
		Verbs: []string{"get", "head", "post", "put", "patch", "delete"}, NonResourceURLs: []string{Prefix, Prefix + "*"},
	}, {
		Verbs: []string{"get"}, NonResourceURLs: []string{"/"}, // leads here
	}})
	if err := rights.EnsureRole(ctx, client, role); err != nil {
		return err
	}
	subject := func(name string) rbacv1.Subject {
		return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: visitors},
		Subjects:   []rbacv1.Subject{subject("system:authenticated"), subject("system:unauthenticated")},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: visitors},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("open the console to visitors: %w", err)
	}
	return nil
}
