package apiserver

import (
	"path/filepath"
	"testing"

	"k8s.io/kubernetes/pkg/apis/rbac"

	"github.com/gantryhq/gantry/engine/store"
)

func TestAnUnreadableChangeOfRightsDoesNotBringBackTheFormerOnes(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write := func(key string, object any) {
		t.Helper()
		if _, err := s.Update(t.Context(), key, store.Any, store.Value{Data: []byte("x"), Object: object}); err != nil {
			t.Fatal(err)
		}
	}
	r := &roles{store: s}
	write("/clusterrolebindings/one", &rbac.ClusterRoleBinding{})
	if got, err := r.ListClusterRoleBindings(t.Context()); err != nil || len(got) != 1 {
		t.Fatalf("at first: %v, %v", got, err)
	}
	write("/clusterrolebindings/one", "nonsense")
	for range 2 { // the change itself is told only once
		if got, err := r.ListClusterRoleBindings(t.Context()); err == nil {
			t.Errorf("answered %v of a state that cannot be read", got)
		}
	}
}
