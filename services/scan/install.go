package scan

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:scan"

// EnsureRole installs the role that the service needs, and gives it to User. It needs
// an administrator.
func EnsureRole(ctx context.Context, cfg *rest.Config) error {
	return rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"events"}},
	})
}
