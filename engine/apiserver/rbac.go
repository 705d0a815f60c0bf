package apiserver

import (
	"context"
	"fmt"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/kubernetes/pkg/apis/rbac"
	rbacconv "k8s.io/kubernetes/pkg/apis/rbac/v1"
	upstreamrbac "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"github.com/gantryhq/gantry/engine/store"
)

// newAuthorizer is RBAC with upstream's evaluator over the roles and bindings in the store. The
// rules that hold for a request are those of the moment it is made: a binding takes effect with
// the answer to its creation.
func newAuthorizer(s *store.Store) (authorizer.Authorizer, authorizer.RuleResolver, *roles) {
	r := &roles{store: s}
	evaluator := upstreamrbac.New(r, r, r, r)
	return union.New(authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup), evaluator), evaluator, r
}

// rbacPrefixes are where the objects that authorization depends on are stored.
var rbacPrefixes = []string{"/roles/", "/rolebindings/", "/clusterroles/", "/clusterrolebindings/"}

// roles answers the evaluator's questions from a snapshot that is made anew after a change.
type roles struct {
	store *store.Store

	mu       sync.Mutex       // guards following
	watchers []*store.Watcher // tell of changes since snapshot; nil before the first question
	snapshot *rbacSnapshot
}

// rbacSnapshot is the RBAC objects of one moment in their external version. It is immutable.
type rbacSnapshot struct {
	roles               map[string]*rbacv1.Role // by namespace/name
	roleBindings        map[string][]*rbacv1.RoleBinding
	clusterRoles        map[string]*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

// current returns a snapshot that is not older than this call.
func (r *roles) current() (*rbacSnapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.snapshot != nil && !r.changed() {
		return r.snapshot, nil
	}
	r.snapshot = nil // should reading fail, the next question must not be answered by it
	if r.watchers == nil {
		if err := r.watch(); err != nil {
			return nil, err
		}
	}
	snapshot, err := readRBAC(r.store)
	if err != nil {
		return nil, fmt.Errorf("read roles and bindings: %w", err)
	}
	r.snapshot = snapshot
	return snapshot, nil
}

func (r *roles) watch() error {
	for _, prefix := range rbacPrefixes {
		w, err := r.store.Watch(prefix, 0)
		if err != nil {
			r.drop()
			return fmt.Errorf("watch %s: %w", prefix, err)
		}
		r.watchers = append(r.watchers, w)
	}
	return nil
}

func (r *roles) drop() {
	for _, w := range r.watchers {
		w.Stop()
	}
	r.watchers = nil
}

// changed tells whether anything was written since it was last asked.
func (r *roles) changed() bool {
	changed, broken := false, false
	for _, w := range r.watchers {
		select {
		case <-w.Ready():
			changed = true
			if _, _, err := w.Take(); err != nil {
				broken = true
			}
		default:
		}
	}
	if broken {
		r.drop()
	}
	return changed
}

func readRBAC(s *store.Store) (*rbacSnapshot, error) {
	view, err := s.View(0)
	if err != nil {
		return nil, err
	}
	snap := &rbacSnapshot{
		roles:        map[string]*rbacv1.Role{},
		roleBindings: map[string][]*rbacv1.RoleBinding{},
		clusterRoles: map[string]*rbacv1.ClusterRole{},
	}
	for _, prefix := range rbacPrefixes {
		view.Ascend(prefix, "", func(e *store.Entry) bool {
			var obj any
			if obj, err = e.Object(); err == nil {
				err = snap.add(obj)
			}
			return err == nil
		})
		if err != nil {
			return nil, err
		}
	}
	return snap, nil
}

func (s *rbacSnapshot) add(obj any) (err error) {
	switch in := obj.(type) {
	case *rbac.Role:
		out := &rbacv1.Role{}
		err = rbacconv.Convert_rbac_Role_To_v1_Role(in, out, nil)
		s.roles[in.Namespace+"/"+in.Name] = out
	case *rbac.RoleBinding:
		out := &rbacv1.RoleBinding{}
		err = rbacconv.Convert_rbac_RoleBinding_To_v1_RoleBinding(in, out, nil)
		s.roleBindings[in.Namespace] = append(s.roleBindings[in.Namespace], out)
	case *rbac.ClusterRole:
		out := &rbacv1.ClusterRole{}
		err = rbacconv.Convert_rbac_ClusterRole_To_v1_ClusterRole(in, out, nil)
		s.clusterRoles[in.Name] = out
	case *rbac.ClusterRoleBinding:
		out := &rbacv1.ClusterRoleBinding{}
		err = rbacconv.Convert_rbac_ClusterRoleBinding_To_v1_ClusterRoleBinding(in, out, nil)
		s.clusterRoleBindings = append(s.clusterRoleBindings, out)
	default:
		err = fmt.Errorf("unexpected %T among the roles and bindings", obj)
	}
	return err
}

// GetRole implements validation.RoleGetter.
func (r *roles) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	snap, err := r.current()
	if err != nil {
		return nil, err
	}
	if role, ok := snap.roles[namespace+"/"+name]; ok {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
}

// ListRoleBindings implements validation.RoleBindingLister.
func (r *roles) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	snap, err := r.current()
	if err != nil {
		return nil, err
	}
	return snap.roleBindings[namespace], nil
}

// GetClusterRole implements validation.ClusterRoleGetter.
func (r *roles) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	snap, err := r.current()
	if err != nil {
		return nil, err
	}
	if role, ok := snap.clusterRoles[name]; ok {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
}

// ListClusterRoleBindings implements validation.ClusterRoleBindingLister.
func (r *roles) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	snap, err := r.current()
	if err != nil {
		return nil, err
	}
	return snap.clusterRoleBindings, nil
}
