package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// newService is a service with one policy, that knows its policies.
func newService(t *testing.T, w *world, spec v1alpha1.TrustPolicySpec) (*Service, *record.FakeRecorder) {
	t.Helper()
	s, err := New(Config{Client: &rest.Config{Host: "http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(10)
	s.decider, s.events = w.decide, events
	s.current["test"] = w.policy(spec)
	close(s.known)
	return s, events
}

// review asks the webhook as an API server does.
func review(t *testing.T, s *Service, path string, r admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	r.UID = "1234"
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &r})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body)))
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil || answer.Response.UID != "1234" || answer.Kind != "AdmissionReview" {
		t.Fatalf("answer %d %s: %v", w.Code, w.Body, err)
	}
	return answer.Response
}

func raw(t *testing.T, o any) runtime.RawExtension {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return runtime.RawExtension{Raw: text}
}

func pod(images ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	for _, i := range images {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "c", Image: i})
	}
	return p
}

func TestPodsArePinned(t *testing.T) {
	w := newWorld(t)
	s, _ := newService(t, w, signedBy(v1alpha1.TrustAny, instanceKey))
	image := w.push("shop/cart:1", "cart")
	w.sign(image, w.keys.own)
	p := pod(w.host+"/shop/cart:1", image.String())
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: w.host + "/shop/cart:1"}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: w.host + "/shop/cart:1"}}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: w.host + "/shop/cart:1"}}}}
	answer := review(t, s, "/admit/test", admissionv1.AdmissionRequest{Object: raw(t, p)})
	if !answer.Allowed {
		t.Fatalf("refused: %+v", answer.Result)
	}
	var patch []struct{ Op, Path, Value string }
	if err := json.Unmarshal(answer.Patch, &patch); err != nil {
		t.Fatal(err)
	}
	want := []string{"/spec/initContainers/0/image", "/spec/containers/0/image", "/spec/ephemeralContainers/0/image", "/spec/volumes/0/image/reference"}
	var got []string
	for _, change := range patch {
		if change.Op != "replace" || change.Value != w.host+"/shop/cart:1@"+image.DigestStr() {
			t.Errorf("%+v", change)
		}
		got = append(got, change.Path)
	}
	if !slices.Equal(got, want) {
		t.Errorf("pinned are %q, want %q", got, want)
	}
}

func TestPodsAreRefused(t *testing.T) {
	w := newWorld(t)
	s, events := newService(t, w, signedBy(v1alpha1.TrustAny, instanceKey))
	good, evil := w.push("shop/cart:1", "cart"), w.push("shop/evil:1", "evil")
	w.sign(good, w.keys.own)
	owned := pod(w.host+"/shop/cart:1", w.host+"/shop/evil:1")
	controller := true
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart-1", UID: "u", Controller: &controller}}
	answer := review(t, s, "/admit/test", admissionv1.AdmissionRequest{Namespace: "shop", Object: raw(t, owned)})
	if answer.Allowed || answer.Result.Code != http.StatusForbidden || !strings.Contains(answer.Result.Message, evil.DigestStr()) {
		t.Errorf("got %+v", answer)
	}
	if event := <-events.Events; !strings.Contains(event, "Warning ImageRefused image "+w.host+"/shop/evil:1 ") {
		t.Errorf("event %q", event)
	}
	dry := true
	review(t, s, "/admit/test", admissionv1.AdmissionRequest{Object: raw(t, owned), DryRun: &dry})
	if len(events.Events) != 0 {
		t.Error("a dry run raised an event")
	}
	// What changes no image passes, also when its images would not be let in any more.
	changed := owned.DeepCopy()
	changed.Labels = map[string]string{"a": "b"}
	if answer := review(t, s, "/admit/test", admissionv1.AdmissionRequest{Object: raw(t, changed), OldObject: raw(t, owned)}); !answer.Allowed || answer.Patch != nil {
		t.Errorf("a label cannot be set: %+v", answer)
	}
	before := pod(good.String())
	changed = pod(w.host + "/shop/evil:1")
	if answer := review(t, s, "/admit/test", admissionv1.AdmissionRequest{Object: raw(t, changed), OldObject: raw(t, before)}); answer.Allowed {
		t.Error("an image was changed in place")
	}
	if answer := review(t, s, "/admit/deleted", admissionv1.AdmissionRequest{Object: raw(t, owned)}); !answer.Allowed {
		t.Error("a policy that is gone refuses")
	}
}

func TestModeWarnOnlyWarns(t *testing.T) {
	w := newWorld(t)
	spec := signedBy(v1alpha1.TrustAny, instanceKey)
	spec.Mode = v1alpha1.TrustWarn
	s, events := newService(t, w, spec)
	w.push("shop/evil:1", "evil")
	answer := review(t, s, "/admit/test", admissionv1.AdmissionRequest{Object: raw(t, pod(w.host+"/shop/evil:1"))})
	if !answer.Allowed || len(answer.Warnings) != 1 || answer.Patch != nil {
		t.Errorf("got %+v", answer)
	}
	if event := <-events.Events; !strings.Contains(event, "ImageNotTrusted") {
		t.Errorf("event %q", event)
	}
}

func TestWorkloadsAreWarned(t *testing.T) {
	w := newWorld(t)
	s, _ := newService(t, w, signedBy(v1alpha1.TrustAny, instanceKey))
	w.push("shop/evil:1", "evil")
	d := &appsv1.Deployment{}
	d.Spec.Template.Spec = pod(w.host + "/shop/evil:1").Spec
	kind := metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	answer := review(t, s, "/warn/test", admissionv1.AdmissionRequest{Kind: kind, Object: raw(t, d)})
	if !answer.Allowed || len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "gantry sign") {
		t.Errorf("got %+v", answer)
	}
	answer = review(t, s, "/warn/test", admissionv1.AdmissionRequest{Kind: kind, Object: raw(t, d), OldObject: raw(t, d)})
	if !answer.Allowed || len(answer.Warnings) != 0 {
		t.Errorf("scaling warns again: %+v", answer)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	s, _ := newService(t, newWorld(t), signedBy(v1alpha1.TrustAny, instanceKey))
	for _, c := range []struct {
		method, path, body string
		code               int
	}{
		{http.MethodGet, "/healthz", "", http.StatusOK},
		{http.MethodGet, "/admit/test", "", http.StatusMethodNotAllowed},
		{http.MethodPost, "/elsewhere", "{}", http.StatusNotFound},
		{http.MethodPost, "/admit/test", "{", http.StatusBadRequest},
		{http.MethodPost, "/admit/test", "{}", http.StatusBadRequest},
		{http.MethodPost, "/admit/test", `{"request":{"object":[]}}`, http.StatusBadRequest},
		{http.MethodPost, "/admit/test", strings.Repeat("x", maxReview+1), http.StatusRequestEntityTooLarge},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.code {
			t.Errorf("%s %s %.20q: %d, want %d", c.method, c.path, c.body, w.Code, c.code)
		}
	}
}

// Whatever a policy selects, its webhook cannot lock the platform out.
func TestSystemNamespacesAreNeverCovered(t *testing.T) {
	s, _ := newService(t, newWorld(t), signedBy(v1alpha1.TrustAny, instanceKey))
	p := s.policy("test")
	selector, err := metav1.LabelSelectorAsSelector(s.podWebhook(p).NamespaceSelector)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kube-system", "gantry-system", "shop"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
		want := !slices.Contains(systemNamespaces, name)
		if selector.Matches(labels.Set(ns.Labels)) != want || p.coversNamespace(ns) != want {
			t.Errorf("namespace %s: want covered %v", name, want)
		}
	}
}

// On a cluster the API server trusts the bundle and knows the Service's name; replicas share both.
func TestTheWebhookIsAnsweredWithTLS(t *testing.T) {
	s, _ := newService(t, newWorld(t), signedBy(v1alpha1.TrustAny, instanceKey))
	kube := fake.NewClientset()
	certificate, bundle, err := Certificate(t.Context(), kube)
	if err != nil {
		t.Fatal(err)
	}
	if _, again, err := Certificate(t.Context(), kube); err != nil || !bytes.Equal(again, bundle) {
		t.Errorf("another replica has another certificate: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Listen(ctx, listener, certificate) }()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatal("the bundle has no certificate")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "trust.gantry-system.svc"}}}
	response, err := client.Get("https://" + listener.Addr().String() + "/healthz")
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", response, err)
	}
	response.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
