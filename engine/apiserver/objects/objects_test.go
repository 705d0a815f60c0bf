package objects

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"github.com/gantryhq/gantry/engine/store"
)

func open(t *testing.T) (*store.Store, *Storage) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st, New(st, Config{
		Resource:    schema.GroupResource{Resource: "configmaps"},
		Prefix:      "/configmaps",
		Codec:       legacyscheme.Codecs.LegacyCodec(schema.GroupVersion{Version: "v1"}),
		NewFunc:     func() runtime.Object { return &api.ConfigMap{} },
		NewListFunc: func() runtime.Object { return &api.ConfigMapList{} },
	})
}

func put(t *testing.T, s *Storage, name, value string) *api.ConfigMap {
	t.Helper()
	out := &api.ConfigMap{}
	in := &api.ConfigMap{Data: map[string]string{"key": value}}
	in.Name, in.Namespace = name, "default"
	if err := s.Create(t.Context(), "/configmaps/default/"+name, in, out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func set(t *testing.T, s *Storage, name, value string) *api.ConfigMap {
	t.Helper()
	out := &api.ConfigMap{}
	err := s.GuaranteedUpdate(t.Context(), "/configmaps/default/"+name, out, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		obj.(*api.ConfigMap).Data["key"] = value
		return obj, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNobodyChangesWhatIsStored(t *testing.T) {
	_, s := open(t)
	put(t, s, "one", "a")
	got := &api.ConfigMap{}
	if err := s.Get(t.Context(), "/configmaps/default/one", storage.GetOptions{}, got); err != nil {
		t.Fatal(err)
	}
	got.Data["key"] = "changed by a reader"
	failed := s.GuaranteedUpdate(t.Context(), "/configmaps/default/one", &api.ConfigMap{}, false, nil, func(obj runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
		obj.(*api.ConfigMap).Data["key"] = "changed by a writer that gave up"
		return nil, nil, context.Canceled
	}, nil)
	if failed == nil {
		t.Fatal("the update succeeded")
	}
	if err := s.Get(t.Context(), "/configmaps/default/one", storage.GetOptions{}, got); err != nil || got.Data["key"] != "a" {
		t.Errorf("stored is %q, %v", got.Data["key"], err)
	}
}

func TestAnUpdateThatChangesNothingWritesNothing(t *testing.T) {
	st, s := open(t)
	put(t, s, "one", "a")
	before := st.Revision()
	set(t, s, "one", "a")
	if after := st.Revision(); after != before {
		t.Errorf("revision went from %d to %d", before, after)
	}
}

func TestConcurrentUpdatesAllCount(t *testing.T) {
	_, s := open(t)
	put(t, s, "one", "")
	const writers, each = 8, 25
	done := make(chan error, writers)
	for range writers {
		go func() {
			for range each {
				err := s.GuaranteedUpdate(context.Background(), "/configmaps/default/one", &api.ConfigMap{}, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
					obj.(*api.ConfigMap).Data["key"] += "x"
					return obj, nil
				}), nil)
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	got := &api.ConfigMap{}
	if err := s.Get(t.Context(), "/configmaps/default/one", storage.GetOptions{}, got); err != nil || len(got.Data["key"]) != writers*each {
		t.Errorf("%d of %d updates counted, %v", len(got.Data["key"]), writers*each, err)
	}
}

func TestAnOldContinuationSaysHowToGoOn(t *testing.T) {
	st, s := open(t)
	for _, name := range []string{"a", "b", "c"} {
		put(t, s, name, name)
	}
	list := func(token string) (*api.ConfigMapList, error) {
		l := &api.ConfigMapList{}
		return l, s.GetList(t.Context(), "/configmaps/default", storage.ListOptions{Recursive: true, Predicate: storage.SelectionPredicate{
			Label: labels.Everything(), Field: fields.Everything(), Limit: 2, Continue: token}}, l)
	}
	first, err := list("")
	if err != nil || len(first.Items) != 2 || first.Continue == "" {
		t.Fatalf("%v, %v", first, err)
	}
	set(t, s, "c", "later")
	if second, err := list(first.Continue); err != nil || len(second.Items) != 1 || second.Items[0].Data["key"] != "c" {
		t.Fatalf("the second page is not of the first one's version: %v, %v", second, err)
	}
	if err := st.Compact(st.Revision()); err != nil {
		t.Fatal(err)
	}
	_, err = list(first.Continue)
	var expired apierrors.APIStatus
	if !errors.As(err, &expired) || expired.Status().Code != 410 || expired.Status().Continue == "" {
		t.Fatalf("an expired page is answered with %v", err)
	}
	if rest, err := list(expired.Status().Continue); err != nil || len(rest.Items) != 1 || rest.Items[0].Data["key"] != "later" {
		t.Errorf("the rest is %v, %v", rest, err)
	}
}

func TestAWatchFromTheForgottenPastIsExpired(t *testing.T) {
	st, s := open(t)
	first := put(t, s, "a", "1")
	set(t, s, "a", "2")
	set(t, s, "a", "3")
	if err := st.Compact(st.Revision()); err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), "/configmaps/default", storage.ListOptions{Recursive: true, ResourceVersion: first.ResourceVersion, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	ev := <-w.ResultChan()
	if st, ok := ev.Object.(*metav1.Status); ev.Type != watch.Error || !ok || st.Code != 410 {
		t.Errorf("got %s %v", ev.Type, ev.Object)
	}
	if _, more := <-w.ResultChan(); more {
		t.Error("the watch goes on")
	}
}
