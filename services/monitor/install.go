package monitor

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/crd"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/internal/rights"
)

//go:embed crds/*.yaml
var crdFiles embed.FS

// EnsureKinds installs ServiceMonitor and PodMonitor and waits until the API serves them. Where the
// Prometheus operator has brought them, they stay as they are. It needs an administrator.
func EnsureKinds(ctx context.Context, cfg *rest.Config) error {
	files, err := fs.Sub(crdFiles, "crds")
	if err != nil {
		return fmt.Errorf("install monitors: %w", err)
	}
	return crd.EnsureUnlessForeign(ctx, cfg, "gantry-monitor", files)
}

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:monitor"

// Reader is the ClusterRole that lets its holder ask for all samples.
const Reader = "gantry-metrics-reader"

// EnsureRoles installs the role that the service needs, gives it to User, and installs Reader, which
// nobody has until an administrator binds it. It needs an administrator.
func EnsureRoles(ctx context.Context, cfg *rest.Config) error {
	look := []string{"get", "list", "watch"}
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: look, APIGroups: []string{""}, Resources: []string{
			"nodes", "pods", "services", "namespaces", "persistentvolumeclaims", "persistentvolumes", "resourcequotas"}},
		{Verbs: look, APIGroups: []string{"apps"}, Resources: []string{"deployments", "replicasets", "statefulsets", "daemonsets"}},
		{Verbs: look, APIGroups: []string{"batch"}, Resources: []string{"jobs", "cronjobs"}},
		{Verbs: look, APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}},
		{Verbs: look, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		{Verbs: look, APIGroups: []string{"gantry.dev"}, Resources: []string{"builds"}},
		{Verbs: look, APIGroups: []string{"gateway.networking.k8s.io"}, Resources: []string{"httproutes", "grpcroutes"}},
		{Verbs: look, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses"}},
		{Verbs: look, APIGroups: []string{monitoringGroup}, Resources: []string{"servicemonitors", "podmonitors"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes/proxy", "nodes/metrics"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}},
		// What ServiceMonitors and PodMonitors refer to, one by one: it can neither list nor watch them.
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
	})
	if err != nil {
		return err
	}
	err = rights.GrantIn(ctx, cfg, platform.SystemNamespace, User, []rbacv1.PolicyRule{
		{Verbs: look, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{SecretName}},
	})
	if err != nil {
		return err
	}
	return rights.LetAsk(ctx, cfg, Reader, []string{"get", "post"}, Prefix+"*")
}
