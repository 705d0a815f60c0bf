package apiserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// follow collects a watch's events until one for the given name is a deletion.
func follow(t testing.TB, w watch.Interface, last string) []string {
	t.Helper()
	defer w.Stop()
	var seen []string
	for deadline := time.After(30 * time.Second); ; {
		select {
		case ev, open := <-w.ResultChan():
			if !open {
				t.Fatalf("the watch ended after %v", seen)
			}
			if ev.Type == watch.Bookmark {
				o := ev.Object.(metav1.Object)
				seen = append(seen, fmt.Sprint("BOOKMARK ", o.GetAnnotations()))
				continue
			}
			seen = append(seen, fmt.Sprint(ev.Type, " ", asJSON(t, ev.Object)))
			if o, ok := ev.Object.(metav1.Object); ok && ev.Type == watch.Deleted && o.GetName() == last {
				return seen
			}
		case <-deadline:
			t.Fatalf("no end of the watch after %v", seen)
		}
	}
}

// Components get objects instead of bytes, and their watches do not pass the handlers: what they
// see must be what everybody else sees.
func TestComponentsSeeWhatOthersSee(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	admin, component := client(t, in.admin), client(t, in.ClientConfig("component", "system:masters"))
	addAccount(t, admin)
	pods := admin.CoreV1().Pods("default")
	must[*corev1.Pod](t)(pods.Create(t.Context(), benchPod(0), metav1.CreateOptions{}))
	yes := true
	options := map[string]metav1.ListOptions{
		"from now on":   {ResourceVersion: must[*corev1.PodList](t)(pods.List(t.Context(), metav1.ListOptions{})).ResourceVersion},
		"from the past": {ResourceVersion: "0"},
		"with a list": {SendInitialEvents: &yes, AllowWatchBookmarks: true,
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
		"by label": {LabelSelector: "app=web"},
		"by field": {FieldSelector: "spec.nodeName=machine"},
	}
	watches := map[string][2]watch.Interface{}
	for name, o := range options {
		watches[name] = [2]watch.Interface{
			must[watch.Interface](t)(component.CoreV1().Pods("").Watch(t.Context(), o)),
			must[watch.Interface](t)(admin.CoreV1().Pods("").Watch(t.Context(), o)),
		}
	}
	liveAndDie(t, component, "web-000001", "another") // ceases to match the label
	liveAndDie(t, admin, "web-000002", "web")
	for name, pair := range watches {
		got, want := follow(t, pair[0], "web-000002"), follow(t, pair[1], "web-000002")
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("watch %s: a component sees\n%v\nothers see\n%v", name, got, want)
		}
		if len(got) < 3 {
			t.Errorf("watch %s: only %v", name, got)
		}
	}
	got := must[*corev1.PodList](t)(component.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}))
	want := must[*corev1.PodList](t)(pods.List(t.Context(), metav1.ListOptions{}))
	if asJSON(t, got) != asJSON(t, want) || len(got.Items) != 1 {
		t.Errorf("a component lists\n%s\nothers list\n%s", asJSON(t, got), asJSON(t, want))
	}
}

// Controllers act as service accounts of kube-system. What they write all the time goes the short
// way all the same, and is not recorded in managedFields.
func TestControllersAreComponents(t *testing.T) {
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.Audit = io.Discard })
	controller := client(t, in.ClientConfig("system:serviceaccount:kube-system:part", "system:serviceaccounts", "system:masters"))
	deployer := client(t, in.AccountConfig("default", "deployer"))
	addAccount(t, controller)
	must[*rbacv1.ClusterRoleBinding](t)(controller.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "deployer"}},
	}, metav1.CreateOptions{}))
	for i, c := range []kubernetes.Interface{controller, deployer} {
		pod := must[*corev1.Pod](t)(c.CoreV1().Pods("default").Create(t.Context(), benchPod(i), metav1.CreateOptions{}))
		pod.Status.Phase = corev1.PodRunning
		pod = must[*corev1.Pod](t)(c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}))
		if recorded := len(pod.ManagedFields) > 0; recorded != (i == 1) {
			t.Errorf("written by %d: fields recorded: %v", i, recorded)
		}
	}
}

// liveAndDie takes a pod through its life.
func liveAndDie(t *testing.T, c kubernetes.Interface, name, label string) {
	t.Helper()
	pods := c.CoreV1().Pods("default")
	pod := benchPod(0)
	pod.Name = name
	made := must[*corev1.Pod](t)(pods.Create(t.Context(), pod, metav1.CreateOptions{}))
	if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() || made.Spec.RestartPolicy == "" {
		t.Errorf("%s lacks what the server sets: %s", name, asJSON(t, made))
	}
	if err := pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Target: corev1.ObjectReference{Kind: "Node", Name: "machine"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old version replaced the binding: %v", err)
	}
	bound := must[*corev1.Pod](t)(pods.Get(t.Context(), name, metav1.GetOptions{}))
	bound.Status.Phase = corev1.PodRunning
	running := must[*corev1.Pod](t)(pods.UpdateStatus(t.Context(), bound, metav1.UpdateOptions{}))
	if running.Spec.NodeName != "machine" || running.Status.Phase != corev1.PodRunning {
		t.Errorf("after bind and status: %s", asJSON(t, running))
	}
	must[*corev1.Pod](t)(pods.Patch(t.Context(), name, types.StrategicMergePatchType,
		[]byte(`{"metadata":{"labels":{"app":"`+label+`"}}}`), metav1.PatchOptions{}))
	now, wrong := int64(0), types.UID("another")
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("deleted although the UID is another: %v", err)
	}
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now, DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run of a deletion: %v", err)
	}
	must[*corev1.Pod](t)(pods.Get(t.Context(), name, metav1.GetOptions{}))
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the deletion: %v", err)
	}
}

func TestWhatComponentsAreRefused(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	component := client(t, in.ClientConfig("component", "system:masters"))
	addAccount(t, component)
	ctx, pods := t.Context(), component.CoreV1().Pods("default")
	must[*corev1.Pod](t)(pods.Create(ctx, benchPod(1), metav1.CreateOptions{}))
	invalid := benchPod(2)
	invalid.Spec.Containers[0].Name = "Not A Name"
	elsewhere := benchPod(3)
	elsewhere.Namespace = "another"
	for what, c := range map[string]struct {
		err  error
		want func(error) bool
	}{
		"the same name again": {second(pods.Create(ctx, benchPod(1), metav1.CreateOptions{})), apierrors.IsAlreadyExists},
		"an invalid name":     {second(pods.Create(ctx, invalid, metav1.CreateOptions{})), apierrors.IsInvalid},
		"another namespace":   {second(pods.Create(ctx, elsewhere, metav1.CreateOptions{})), apierrors.IsBadRequest},
		"no such namespace":   {second(component.CoreV1().Pods("another").Create(ctx, elsewhere, metav1.CreateOptions{})), apierrors.IsNotFound},
		"an unknown field":    {second(pods.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nonsense=1"})), apierrors.IsBadRequest},
		"nothing there":       {second(pods.UpdateStatus(ctx, benchPod(4), metav1.UpdateOptions{})), apierrors.IsNotFound},
	} {
		if !c.want(c.err) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	must[*corev1.Pod](t)(pods.Create(ctx, benchPod(5), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))
	if _, err := pods.Get(ctx, benchPod(5).Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left something: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Whoever changes what an informer holds breaks the rule, but not the store.
func TestAnswersAndEventsAreNotTheStores(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	component := client(t, in.ClientConfig("component", "system:masters"))
	addAccount(t, component)
	pods := component.CoreV1().Pods("default")
	w := must[watch.Interface](t)(pods.Watch(t.Context(), metav1.ListOptions{}))
	defer w.Stop()
	spoil := func(p *corev1.Pod) {
		p.Labels["app"], p.Spec.Containers[0].Image, p.Spec.Containers[0].Env[0].Value = "spoilt", "spoilt", "spoilt"
	}
	spoil(must[*corev1.Pod](t)(pods.Create(t.Context(), benchPod(1), metav1.CreateOptions{})))
	spoil((<-w.ResultChan()).Object.(*corev1.Pod))
	list := must[*corev1.PodList](t)(pods.List(t.Context(), metav1.ListOptions{}))
	spoil(&list.Items[0])
	got := must[*corev1.Pod](t)(pods.Get(t.Context(), benchPod(1).Name, metav1.GetOptions{}))
	spoil(got)
	got = must[*corev1.Pod](t)(pods.Get(t.Context(), benchPod(1).Name, metav1.GetOptions{}))
	if s := asJSON(t, got.Labels) + asJSON(t, got.Spec.Containers); s != asJSON(t, benchPod(1).Labels)+asJSON(t, mustContainers(t, in)) {
		t.Errorf("the store holds %s", s)
	}
}

func mustContainers(t *testing.T, in *instance) []corev1.Container {
	t.Helper()
	p := must[*corev1.Pod](t)(client(t, in.admin).CoreV1().Pods("default").Get(t.Context(), benchPod(1).Name, metav1.GetOptions{}))
	if p.Spec.Containers[0].Image != benchPod(1).Spec.Containers[0].Image {
		t.Errorf("others read the image %s", p.Spec.Containers[0].Image)
	}
	return p.Spec.Containers
}

func TestARightThatIsTakenAwayIsGoneWithTheNextRequest(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	admin, component := client(t, in.admin), client(t, in.ClientConfig("component"))
	ctx := t.Context()
	list := func() error {
		_, err := component.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		return err
	}
	get := func(name string) error {
		_, err := component.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		return err
	}
	if err := list(); !apierrors.IsForbidden(err) {
		t.Fatalf("before: %v", err)
	}
	must[*rbacv1.Role](t)(admin.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"mine"}},
	}}, metav1.CreateOptions{}))
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "component"}}}
	for range 3 {
		must[*rbacv1.RoleBinding](t)(admin.RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{}))
		for range 2 {
			if err := list(); err != nil {
				t.Fatalf("with the right: %v", err)
			}
			if err := get("mine"); !apierrors.IsNotFound(err) {
				t.Fatalf("with the right to one name: %v", err)
			}
			if err := get("yours"); !apierrors.IsForbidden(err) {
				t.Fatalf("another name: %v", err)
			}
		}
		if err := admin.RbacV1().RoleBindings("default").Delete(ctx, "reader", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := list(); !apierrors.IsForbidden(err) {
			t.Fatalf("after the right was taken away: %v", err)
		}
	}
}

// Objects never leave the process, and no ticket for one can be cashed from outside.
func TestClientsOnTheNetworkCannotAskForObjects(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	transport, err := rest.TransportFor(in.admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"Accept", "Content-Type"} {
		method, want := http.MethodGet, http.StatusNotAcceptable
		if h == "Content-Type" {
			method, want = http.MethodPost, http.StatusUnsupportedMediaType
		}
		r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, in.admin.Host+"/api/v1/namespaces/default/pods", nil))
		r.Header.Set(h, inproc.MediaType)
		resp := must[*http.Response](t)(transport.RoundTrip(r))
		body := must[[]byte](t)(io.ReadAll(resp.Body))
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", h, resp.StatusCode, want, body)
		}
	}
}
