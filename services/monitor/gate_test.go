package monitor

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// heard is a handler that notes what it hears of.
type heard struct {
	mu    sync.Mutex // guards following
	lines []string
}

func (h *heard) note(verb string, o any) {
	key, _ := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, verb+" "+key)
}

func (h *heard) OnAdd(o any, _ bool) { h.note("add", o) }
func (h *heard) OnUpdate(_, o any)   { h.note("update", o) }
func (h *heard) OnDelete(o any)      { h.note("delete", o) }
func (h *heard) await(t *testing.T, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		h.mu.Lock()
		lines := slices.Sorted(slices.Values(h.lines))
		h.mu.Unlock()
		if got = strings.Join(lines, ", "); got == want {
			return
		}
	}
	t.Errorf("heard %q, want %q", got, want)
}

func slice(name, service string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
}

// TestGate shows that discovery hears of the slices of Services that ask to be scraped, of all
// while monitors exist, and of the end of all of them.
func TestGate(t *testing.T) {
	asks := map[string]string{scrapeAnnotation: "true"}
	client := fake.NewClientset(
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "asks", Annotations: asks}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "silent"}},
		slice("asks-1", "asks"), slice("silent-1", "silent"), slice("stray", "gone"))
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Informer()
	g := &gate{SharedIndexInformer: factory.Discovery().V1().EndpointSlices().Informer(), wanted: asksForService(services.GetStore())}
	go services.Run(t.Context().Done())
	if !cache.WaitForCacheSync(t.Context().Done(), services.HasSynced) {
		t.Fatal("the services are not read")
	}
	h := &heard{}
	if _, err := g.AddEventHandler(h); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	h.await(t, "add shop/asks-1")

	g.set(true)
	g.set(true) // which is nothing new
	h.await(t, "add shop/asks-1, update shop/asks-1, update shop/silent-1, update shop/stray")

	g.set(false)
	endpoints := client.DiscoveryV1().EndpointSlices("shop")
	for _, name := range []string{"asks-1", "silent-1"} {
		if err := endpoints.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := endpoints.Create(t.Context(), slice("silent-2", "silent"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := endpoints.Create(t.Context(), slice("asks-2", "asks"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.await(t, "add shop/asks-1, add shop/asks-2, delete shop/asks-1, delete shop/silent-1, update shop/asks-1, update shop/silent-1, update shop/stray")
}

// TestGateOfPods shows which pods ask.
func TestGateOfPods(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "false": false, "": false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{scrapeAnnotation: value}}}
		if asksForScrape(pod) != want {
			t.Errorf("a pod with annotation %q is scraped: %v", value, !want)
		}
	}
	if asksForScrape(&corev1.Pod{}) {
		t.Error("a pod without annotation is scraped")
	}
}
