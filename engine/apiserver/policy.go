package apiserver

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// grant gives rules to a user or a group.
type grant struct {
	role    string
	subject rbacv1.Subject
	rules   []rbacv1.PolicyRule // none when the role is upstream's
}

var read = []string{"get", "list", "watch"}

// grants are the rights of Gantry's own components, beside upstream's bootstrap policy. Services
// that are installed with kinds of their own bring their roles themselves.
var grants = []grant{
	{role: "system:node", subject: toGroup(user.NodesGroup)},
	{role: "system:gantry:node", subject: toGroup(user.NodesGroup), rules: []rbacv1.PolicyRule{
		// Service addresses, network policy and cluster DNS are the node's work here.
		{Verbs: read, APIGroups: []string{""}, Resources: []string{"services", "endpoints", "namespaces", "nodes", "pods", "configmaps", "secrets", "serviceaccounts", "limitranges", "persistentvolumeclaims", "persistentvolumes"}},
		{Verbs: read, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		{Verbs: read, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}},
		{Verbs: read, APIGroups: []string{"storage.k8s.io"}, Resources: []string{"storageclasses"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{""}, Resources: []string{"services/status"}},
		// Pods when they have stopped, and the Node of a former host name.
		{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"pods", "nodes"}},
	}},
	{role: "system:gantry:network", subject: toUser("system:gantry:network"), rules: []rbacv1.PolicyRule{
		{Verbs: read, APIGroups: []string{""}, Resources: []string{"services", "endpoints", "namespaces", "nodes", "pods"}},
		{Verbs: read, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		{Verbs: read, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{""}, Resources: []string{"services/status"}},
	}},
}

func toGroup(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func toUser(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

var bootstrapLabels = map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}

func gantryRoles() (roles []rbacv1.ClusterRole, bindings []rbacv1.ClusterRoleBinding) {
	for _, g := range grants {
		name := g.role
		if g.rules != nil {
			roles = append(roles, rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: g.role, Labels: bootstrapLabels}, Rules: g.rules})
		} else {
			name = "system:gantry:" + g.role[len("system:"):] + "s" // upstream has a binding of the role's name
		}
		bindings = append(bindings, rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: bootstrapLabels},
			Subjects:   []rbacv1.Subject{g.subject},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: g.role},
		})
	}
	return roles, bindings
}

// ensurePolicy brings the default roles and bindings up to date: upstream's reconciliation adds
// what is missing and leaves what was added, unless an object opts out by annotation.
func (s *Server) ensurePolicy(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(16) // so that their writes share commits
	roles, bindings := gantryRoles()
	roles = append(append(roles, bootstrappolicy.ClusterRoles()...), bootstrappolicy.ControllerRoles()...)
	aggregate(roles)
	bindings = append(append(bindings, bootstrappolicy.ClusterRoleBindings()...), bootstrappolicy.ControllerRoleBindings()...)
	for _, r := range roles {
		s.reconcileRole(work, r.Name, reconciliation.ClusterRoleRuleOwner{ClusterRole: &r},
			reconciliation.ClusterRoleModifier{Client: s.client.RbacV1().ClusterRoles()})
	}
	for _, b := range bindings {
		s.reconcileBinding(work, b.Name, reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b},
			reconciliation.ClusterRoleBindingClientAdapter{Client: s.client.RbacV1().ClusterRoleBindings()})
	}
	for namespace, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			s.reconcileRole(work, namespace+"/"+r.Name, reconciliation.RoleRuleOwner{Role: &r},
				reconciliation.RoleModifier{Client: s.client.RbacV1(), NamespaceClient: s.client.CoreV1().Namespaces()})
		}
	}
	for namespace, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bindings {
			s.reconcileBinding(work, namespace+"/"+b.Name, reconciliation.RoleBindingAdapter{RoleBinding: &b},
				reconciliation.RoleBindingClientAdapter{Client: s.client.RbacV1(), NamespaceClient: s.client.CoreV1().Namespaces()})
		}
	}
	return work.Wait()
}

func (s *Server) reconcileRole(work *errgroup.Group, name string, role reconciliation.RuleOwner, client reconciliation.RuleOwnerModifier) {
	work.Go(func() error {
		opts := reconciliation.ReconcileRoleOptions{Role: role, Client: client, Confirm: true}
		if err := retry.OnError(retry.DefaultRetry, apierrors.IsConflict, func() error { _, err := opts.Run(); return err }); err != nil {
			return fmt.Errorf("bring role %s up to date: %w", name, err)
		}
		return nil
	})
}

func (s *Server) reconcileBinding(work *errgroup.Group, name string, binding reconciliation.RoleBinding, client reconciliation.RoleBindingModifier) {
	work.Go(func() error {
		opts := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Client: client, Confirm: true}
		if err := retry.OnError(retry.DefaultRetry, apierrors.IsConflict, func() error { _, err := opts.Run(); return err }); err != nil {
			return fmt.Errorf("bring role binding %s up to date: %w", name, err)
		}
		return nil
	})
}

// aggregate fills the roles that are made of others (admin, edit, view), so that they work from
// the first request on. What users add to them later is the aggregation controller's work.
func aggregate(roles []rbacv1.ClusterRole) {
	for i := range roles {
		if roles[i].AggregationRule == nil {
			continue
		}
		for _, source := range sources(roles, roles[i].AggregationRule) {
			roles[i].Rules = append(roles[i].Rules, source.Rules...)
		}
	}
}

// sources answers the plain roles that an aggregated one is made of, directly or by way of
// another aggregated one.
func sources(roles []rbacv1.ClusterRole, rule *rbacv1.AggregationRule) []rbacv1.ClusterRole {
	var found []rbacv1.ClusterRole
	for _, labelSelector := range rule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&labelSelector)
		if err != nil {
			continue // upstream's constants
		}
		for _, r := range roles {
			switch {
			case !selector.Matches(labels.Set(r.Labels)):
			case r.AggregationRule != nil:
				found = append(found, sources(roles, r.AggregationRule)...)
			default:
				found = append(found, r)
			}
		}
	}
	return found
}
