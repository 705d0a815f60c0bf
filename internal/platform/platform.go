// Package platform tells clients where an installation's services are.
//
// The installation publishes its addresses in one ConfigMap, kube-public/gantry,
// that every authenticated user may read; `gantry serve` writes it on one
// machine, the installed services write it on a cluster. The command line reads
// it, so that `gantry up` needs nothing but a kubeconfig.
package platform

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	// Namespace and Name of the ConfigMap.
	Namespace, Name = "kube-public", "gantry"

	// SystemNamespace is where Gantry's own objects live.
	SystemNamespace = "gantry-system"
)

// Info is where the services of an installation are.
type Info struct {
	Version  string // of Gantry
	Registry string // host:port that image names start with
	Gateway  string // host:port of plain HTTP
	TLS      string // host:port of HTTPS, or ""
	DataDir  string // of a single machine, or ""
}

// Publish writes info for clients to read.
func Publish(ctx context.Context, c kubernetes.Interface, info Info) error {
	cm := applycorev1.ConfigMap(Name, Namespace).WithData(map[string]string{
		"version": info.Version, "registry": info.Registry, "gateway": info.Gateway, "tls": info.TLS, "dataDir": info.DataDir,
	})
	if _, err := c.CoreV1().ConfigMaps(Namespace).Apply(ctx, cm, metav1.ApplyOptions{FieldManager: "gantry", Force: true}); err != nil {
		return fmt.Errorf("publish addresses in configmap %s/%s: %w", Namespace, Name, err)
	}
	return letRead(ctx, c)
}

// letRead lets every authenticated user read the addresses: also who may do nothing
// but deploy to one namespace.
func letRead(ctx context.Context, c kubernetes.Interface) error {
	by := metav1.ApplyOptions{FieldManager: "gantry", Force: true}
	role := applyrbacv1.Role(Name, Namespace).WithRules(applyrbacv1.PolicyRule().
		WithAPIGroups("").WithResources("configmaps").WithResourceNames(Name).WithVerbs("get"))
	if _, err := c.RbacV1().Roles(Namespace).Apply(ctx, role, by); err != nil {
		return fmt.Errorf("let everyone read configmap %s/%s: %w", Namespace, Name, err)
	}
	binding := applyrbacv1.RoleBinding(Name, Namespace).
		WithRoleRef(applyrbacv1.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("Role").WithName(Name)).
		WithSubjects(applyrbacv1.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.GroupKind).WithName("system:authenticated"))
	if _, err := c.RbacV1().RoleBindings(Namespace).Apply(ctx, binding, by); err != nil {
		return fmt.Errorf("let everyone read configmap %s/%s: %w", Namespace, Name, err)
	}
	return nil
}

// Read returns what the installation published.
func Read(ctx context.Context, c kubernetes.Interface) (Info, error) {
	cm, err := c.CoreV1().ConfigMaps(Namespace).Get(ctx, Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Info{}, hint.Wrap(fmt.Errorf("read configmap %s/%s: this cluster has no Gantry", Namespace, Name),
			"start one with `gantry serve`, or name another with --kubeconfig")
	}
	if err != nil {
		return Info{}, fmt.Errorf("read configmap %s/%s: %w", Namespace, Name, err)
	}
	return fromConfigMap(cm), nil
}

func fromConfigMap(cm *corev1.ConfigMap) Info {
	return Info{
		Version: cm.Data["version"], Registry: cm.Data["registry"],
		Gateway: cm.Data["gateway"], TLS: cm.Data["tls"], DataDir: cm.Data["dataDir"],
	}
}
