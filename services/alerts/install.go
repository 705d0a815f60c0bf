package alerts

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/crd"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/internal/rights"
)

//go:embed crds/*.yaml
var crdFiles embed.FS

// EnsureKinds installs PrometheusRule and waits until the API serves it. Where the Prometheus operator has
// brought it, it stays as it is. It needs an administrator.
func EnsureKinds(ctx context.Context, cfg *rest.Config) error {
	files, err := fs.Sub(crdFiles, "crds")
	if err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	return crd.EnsureUnlessForeign(ctx, cfg, "gantry-alerts", files)
}

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:alerts"

// Reader is the ClusterRole that lets its holder see all alerts and silences; Editor may silence as well, tell
// of alerts, and test receivers.
const (
	Reader = "gantry-alerts-reader"
	Editor = "gantry-alerts-editor"
)

// EnsureRoles installs the role that the service needs, gives it to User, and installs Reader and Editor, which
// nobody has until an administrator binds them. It needs an administrator.
func EnsureRoles(ctx context.Context, cfg *rest.Config) error {
	look := []string{"get", "list", "watch"}
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: look, APIGroups: []string{""}, Resources: []string{"namespaces"}},
		{Verbs: look, APIGroups: []string{monitoringGroup}, Resources: []string{"prometheusrules"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
	})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install roles of alerts: %w", err)
	}
	if err := letReadConfiguration(ctx, client); err != nil {
		return err
	}
	for name, verbs := range map[string][]string{Reader: {"get"}, Editor: {"get", "post", "delete"}} {
		if err := rights.LetAsk(ctx, cfg, name, verbs, Prefix+"*"); err != nil {
			return err
		}
	}
	return nil
}

// letReadConfiguration lets User read the one Secret that configures it.
func letReadConfiguration(ctx context.Context, client kubernetes.Interface) error {
	by := metav1.ApplyOptions{FieldManager: "gantry-alerts", Force: true}
	role := applyrbacv1.Role(User, platform.SystemNamespace).WithRules(applyrbacv1.PolicyRule().
		WithAPIGroups("").WithResources("secrets").WithResourceNames(SecretName).WithVerbs("get", "list", "watch"))
	binding := applyrbacv1.RoleBinding(User, platform.SystemNamespace).
		WithRoleRef(applyrbacv1.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("Role").WithName(User)).
		WithSubjects(applyrbacv1.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.UserKind).WithName(User))
	if _, err := client.RbacV1().Roles(platform.SystemNamespace).Apply(ctx, role, by); err != nil {
		return fmt.Errorf("let alerts read their configuration: %w", err)
	}
	if _, err := client.RbacV1().RoleBindings(platform.SystemNamespace).Apply(ctx, binding, by); err != nil {
		return fmt.Errorf("let alerts read their configuration: %w", err)
	}
	return nil
}
