package contract

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// runner is the label of the story's own objects: controllers may put others beside them.
var runner = map[string]string{"story": "contract"}

const ofStory = "story=contract"

func chunkedLists(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	s.createConfigMaps(25, runner)
	seen, version, token := map[string]bool{}, "", ""
	for page := 0; ; page++ {
		list, err := maps.List(s.ctx, metav1.ListOptions{Limit: 10, Continue: token, LabelSelector: ofStory})
		s.must(err)
		if page == 0 {
			version = list.ResourceVersion
			// What happens between chunks is not part of the list.
			s.must(maps.Delete(s.ctx, "cm-020", metav1.DeleteOptions{}))
			_, err := maps.Create(s.ctx, configMap("cm-021b", runner), metav1.CreateOptions{})
			s.must(err)
			_, err = maps.Patch(s.ctx, "cm-022", types.MergePatchType, []byte(`{"data":{"key":"new"}}`), metav1.PatchOptions{})
			s.must(err)
		}
		if list.ResourceVersion != version {
			s.Errorf("page %d is of version %s, the first of %s", page, list.ResourceVersion, version)
		}
		for _, cm := range list.Items {
			seen[cm.Name] = true
			if cm.Name == "cm-022" && cm.Data["key"] != "cm-022" {
				s.Error("a chunk shows a later change")
			}
		}
		if token = list.Continue; token == "" {
			break
		}
	}
	if len(seen) != 25 || !seen["cm-020"] || seen["cm-021b"] {
		s.Errorf("%d objects in all chunks, deleted one seen: %v, new one seen: %v", len(seen), seen["cm-020"], seen["cm-021b"])
	}
	list, err := maps.List(s.ctx, metav1.ListOptions{Limit: 10})
	s.must(err)
	if list.RemainingItemCount == nil || *list.RemainingItemCount < 15 {
		s.Errorf("remaining item count is %v", list.RemainingItemCount)
	}
	exact, err := maps.List(s.ctx, metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchExact, LabelSelector: ofStory})
	s.must(err)
	if len(exact.Items) != 25 || exact.ResourceVersion != version {
		s.Errorf("%d objects at version %s", len(exact.Items), exact.ResourceVersion)
	}
	_, err = maps.List(s.ctx, metav1.ListOptions{Continue: "nonsense", Limit: 1})
	s.refused(err, apierrors.IsBadRequest, "a broken continue token")
}

func selectors(s *teller) {
	pods := s.client.CoreV1().Pods(s.namespace)
	for _, name := range []string{"a", "b", "c"} {
		p := pod(name)
		p.Labels["tier"] = map[bool]string{true: "front", false: "back"}[name == "a"]
		_, err := pods.Create(s.ctx, p, metav1.CreateOptions{})
		s.must(err)
	}
	for _, q := range []struct {
		options metav1.ListOptions
		want    int
	}{
		{metav1.ListOptions{LabelSelector: "tier=back"}, 2},
		{metav1.ListOptions{LabelSelector: "tier in (front, back), app!=a"}, 2},
		{metav1.ListOptions{LabelSelector: "!tier"}, 0},
		{metav1.ListOptions{FieldSelector: "metadata.name=b"}, 1},
		{metav1.ListOptions{FieldSelector: "spec.nodeName="}, 3},
		{metav1.ListOptions{FieldSelector: "status.phase=Pending", LabelSelector: "tier=front"}, 1},
		{metav1.ListOptions{FieldSelector: "status.phase!=Pending"}, 0},
	} {
		list, err := pods.List(s.ctx, q.options)
		s.must(err)
		if len(list.Items) != q.want {
			s.Errorf("%+v selects %d pods, want %d", q.options, len(list.Items), q.want)
		}
	}
	_, err := pods.List(s.ctx, metav1.ListOptions{FieldSelector: "spec.hostname=x"})
	s.refused(err, apierrors.IsBadRequest, "a selector of a field that cannot be selected")
}

// next answers the next event that is not a bookmark, unless one is wanted.
func (s *teller) next(w watch.Interface, bookmarks bool) (watch.EventType, runtime.Object) {
	s.Helper()
	timeout := time.After(patience)
	for {
		select {
		case ev, ok := <-w.ResultChan():
			if !ok {
				s.Fatal("the watch ended")
			}
			if ev.Type == watch.Error {
				s.Fatalf("the watch failed: %v", apierrors.FromObject(ev.Object))
			}
			if ev.Type != watch.Bookmark || bookmarks {
				return ev.Type, ev.Object
			}
		case <-timeout:
			s.Fatalf("no event within %s", patience)
		}
	}
}

func (s *teller) expect(w watch.Interface, kind watch.EventType, name string) *corev1.ConfigMap {
	s.Helper()
	got, obj := s.next(w, false)
	cm, ok := obj.(*corev1.ConfigMap)
	if !ok || got != kind || cm.Name != name {
		s.Fatalf("got %s of %v, want %s of %s", got, obj, kind, name)
	}
	return cm
}

func watchResume(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	first, err := maps.Create(s.ctx, configMap("one", runner), metav1.CreateOptions{})
	s.must(err)
	changed, err := maps.Patch(s.ctx, "one", types.MergePatchType, []byte(`{"data":{"key":"1"}}`), metav1.PatchOptions{})
	s.must(err)
	_, err = maps.Create(s.ctx, configMap("two", runner), metav1.CreateOptions{})
	s.must(err)
	s.must(maps.Delete(s.ctx, "one", metav1.DeleteOptions{}))

	w, err := maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, LabelSelector: ofStory})
	s.must(err)
	defer w.Stop()
	if got := s.expect(w, watch.Modified, "one"); got.ResourceVersion != changed.ResourceVersion {
		s.Errorf("the change is of version %s, its event of %s", changed.ResourceVersion, got.ResourceVersion)
	}
	s.expect(w, watch.Added, "two")
	gone := s.expect(w, watch.Deleted, "one")
	if gone.ResourceVersion == changed.ResourceVersion || gone.Data["key"] != "1" {
		s.Errorf("the deletion shows version %s and %v", gone.ResourceVersion, gone.Data)
	}
	_, err = maps.Create(s.ctx, configMap("three", runner), metav1.CreateOptions{})
	s.must(err)
	s.expect(w, watch.Added, "three")

	again, err := maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: gone.ResourceVersion, LabelSelector: ofStory})
	s.must(err)
	defer again.Stop()
	s.expect(again, watch.Added, "three")
}

func watchList(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	s.createConfigMaps(3, runner)
	w, err := maps.Watch(s.ctx, metav1.ListOptions{
		SendInitialEvents: pointer(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		AllowWatchBookmarks: true, LabelSelector: ofStory})
	s.must(err)
	defer w.Stop()
	for range 3 {
		if kind, obj := s.next(w, true); kind != watch.Added {
			s.Fatalf("got %s of %v", kind, obj)
		}
	}
	kind, obj := s.next(w, true)
	if mark, ok := obj.(*corev1.ConfigMap); !ok || kind != watch.Bookmark || mark.Annotations[metav1.InitialEventsAnnotationKey] != "true" || mark.ResourceVersion == "" {
		s.Fatalf("the initial events end with %s %v", kind, obj)
	}
	_, err = maps.Create(s.ctx, configMap("later", runner), metav1.CreateOptions{})
	s.must(err)
	s.expect(w, watch.Added, "later")

	// Without a version a watch begins with what is there, too.
	plain, err := maps.Watch(s.ctx, metav1.ListOptions{LabelSelector: ofStory})
	s.must(err)
	defer plain.Stop()
	for range 4 {
		if kind, _ := s.next(plain, false); kind != watch.Added {
			s.Fatalf("got %s", kind)
		}
	}
}

func watchSelector(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	list, err := maps.List(s.ctx, metav1.ListOptions{})
	s.must(err)
	w, err := maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: ofStory + ",colour=red"})
	s.must(err)
	defer w.Stop()
	_, err = maps.Create(s.ctx, configMap("thing", runner), metav1.CreateOptions{})
	s.must(err)
	colour := func(c string) {
		s.Helper()
		_, err := maps.Patch(s.ctx, "thing", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"colour":%q}}}`, c), metav1.PatchOptions{})
		s.must(err)
	}
	colour("red")
	s.expect(w, watch.Added, "thing")
	colour("blue")
	if cm := s.expect(w, watch.Deleted, "thing"); cm.Labels["colour"] != "red" {
		s.Errorf("the object left the selection as %v, want its last selected state", cm.Labels)
	}
	colour("red")
	s.expect(w, watch.Added, "thing")

	one, err := maps.Watch(s.ctx, metav1.SingleObject(metav1.ObjectMeta{Name: "thing"}))
	s.must(err)
	defer one.Stop()
	s.expect(one, watch.Added, "thing")
	_, err = maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: "soon"})
	if err == nil || !isBadVersion(err) {
		s.Errorf("a watch from a version that is none: %v", err)
	}
}

func isBadVersion(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code >= 400
}
