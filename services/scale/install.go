package scale

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:scale"

// EnsureRole installs the role that the service needs, and gives it to User. It needs an
// administrator. The kind ScalePolicy is installed together with the gateway's.
func EnsureRole(ctx context.Context, cfg *rest.Config) error {
	return rights.Grant(ctx, cfg, User, Role().Rules)
}

// Role is what the service may do.
func Role() *rbacv1.ClusterRole {
	read := []string{"get", "list", "watch"}
	return rights.Role(User, []rbacv1.PolicyRule{
		{Verbs: read, APIGroups: []string{"gantry.dev"}, Resources: []string{"scalepolicies"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"scalepolicies/status"}},
		{Verbs: read, APIGroups: []string{""}, Resources: []string{"services"}},
		{Verbs: read, APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}},
		// Anything that can be scaled, as upstream's autoscaler.
		{Verbs: []string{"get", "patch", "update"}, APIGroups: []string{"*"}, Resources: []string{"*/scale"}},
		// Their pod templates: labels and requests. Other kinds are known by their selectors.
		{Verbs: []string{"get"}, APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "replicasets"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"replicationcontrollers"}},
		{Verbs: []string{"get", "list"}, APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods"}},
		{Verbs: []string{"get", "post"}, NonResourceURLs: []string{"/prometheus/api/v1/query"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
	})
}
