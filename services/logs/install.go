package logs

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:logs"

// reader is the ClusterRole, which everybody who has a login has, that lets ask. Which logs somebody sees then
// depends on their right to get pods/log.
const reader = "gantry-logs-reader"

// EnsureRoles installs what the service needs and gives it to User, and lets everybody who is logged in ask.
// It needs an administrator.
func EnsureRoles(ctx context.Context, cfg *rest.Config) error {
	err := rights.Grant(ctx, cfg, User, Role(false).Rules)
	if err != nil {
		return err
	}
	if err := rights.LetAsk(ctx, cfg, reader, []string{"get", "post"}, Prefix+"*", TimelinePrefix+"*"); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install the roles of logs: %w", err)
	}
	return rights.Bind(ctx, client, reader, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:authenticated"})
}

// Role is what the service needs; with throughAPI also to read the logs themselves there, where it cannot
// read the files of the nodes.
func Role(throughAPI bool) *rbacv1.ClusterRole {
	look := []string{"get", "list", "watch"}
	rules := []rbacv1.PolicyRule{
		{Verbs: look, APIGroups: []string{""}, Resources: []string{"pods", "configmaps", "events"}},
		{Verbs: look, APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets"}},
		{Verbs: look, APIGroups: []string{"gantry.dev"}, Resources: []string{"builds"}},
		{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}},
		{Verbs: []string{"get", "post"}, NonResourceURLs: []string{"/prometheus/*"}},
	}
	if throughAPI {
		rules = append(rules, rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/log"}})
	}
	return rights.Role(User, rules)
}
