package translate

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// market is a set of Ingresses, with the Services and certificates that they name.
type market struct {
	*town
	ingresses map[types.NamespacedName]*networkingv1.Ingress
	secrets   map[types.NamespacedName]*corev1.Secret
	version   int
}

func shopName(kind string, i int) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: fmt.Sprint(kind, "-", i)}
}

func newMarket(t *testing.T, seed uint64, pairs []map[string][]byte) *market {
	w := &market{town: newTown(seed), ingresses: map[types.NamespacedName]*networkingv1.Ingress{}, secrets: map[types.NamespacedName]*corev1.Secret{}}
	w.objects.Ingress = func(n types.NamespacedName) *networkingv1.Ingress { return w.ingresses[n] }
	w.objects.Secret = func(n types.NamespacedName) *corev1.Secret { return w.secrets[n] }
	for i := range 4 {
		w.services[shopName("service", i)] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: shopName("service", i).Name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		w.rotate(i, pairs)
	}
	w.ingresses[shopName("ingress", 99)] = w.ingress(shopName("ingress", 99), 0)
	return w
}

func (w *market) rotate(i int, pairs []map[string][]byte) {
	w.version++
	w.secrets[shopName("secret", i)] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: shopName("secret", i).Name, UID: types.UID(fmt.Sprint(i)), ResourceVersion: fmt.Sprint(w.version)},
		Type:       corev1.SecretTypeTLS, Data: pairs[w.version%len(pairs)],
	}
}

// ingress is one with the certificate of a secret, or with none.
func (w *market) ingress(name types.NamespacedName, secret int) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Annotations: map[string]string{}}}
	if old := w.ingresses[name]; old != nil {
		i.CreationTimestamp = old.CreationTimestamp
	} else {
		w.created++
		i.CreationTimestamp = metav1.NewTime(time.Unix(w.created/3, 0))
	}
	if secret > 0 {
		i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example.com"}, SecretName: shopName("secret", secret).Name}}
	}
	for _, annotation := range []string{"use-regex", "proxy-read-timeout", "ssl-redirect", "no-such-thing"} {
		if w.random.IntN(4) == 0 {
			i.Annotations[annotationPrefix+annotation] = pick(w.town, "true", "30")
		}
	}
	for range 1 + w.random.IntN(2) {
		paths := &networkingv1.HTTPIngressRuleValue{}
		for range 1 + w.random.IntN(2) {
			kind := pick(w.town, networkingv1.PathTypePrefix, networkingv1.PathTypeExact)
			paths.Paths = append(paths.Paths, networkingv1.HTTPIngressPath{Path: pick(w.town, "/", "/a", "/a/b"), PathType: &kind, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: shopName("service", w.random.IntN(5)).Name, Port: networkingv1.ServiceBackendPort{Number: 80}},
			}})
		}
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: pick(w.town, "a.example.com", "b.example.com", "*.example.com", ""), IngressRuleValue: networkingv1.IngressRuleValue{HTTP: paths}})
	}
	return i
}

// trade changes something and says what.
func (w *market) trade(pairs []map[string][]byte) Change {
	c := w.step()
	switch w.random.IntN(4) {
	case 0:
		n := w.random.IntN(4)
		w.rotate(n, pairs)
		c.References = map[Reference]bool{{"Secret", shopName("secret", n)}: true, {"Secret", shopName("nobodys", n)}: true}
	default:
		n := w.random.IntN(8)
		name := shopName("ingress", n)
		if w.ingresses[name] != nil && w.random.IntN(4) == 0 {
			delete(w.ingresses, name)
		} else {
			w.ingresses[name] = w.ingress(name, max(0, n-5))
		}
		c.Routes[RouteName{"Ingress", name}] = true
	}
	return c
}

func (w *market) now() Objects {
	o := w.objects
	o.Routes = slices.Collect(maps.Values(w.routes))
	o.Ingresses = slices.Collect(maps.Values(w.ingresses))
	return o
}

func TestUpdatesOfIngressesAndCertificatesEndWhereAWholeTranslationDoes(t *testing.T) {
	pairs := []map[string][]byte{keyPair(t, "a.example.com"), keyPair(t, "a.example.com"), keyPair(t, "a.example.com")}
	taken, all := 0, 0
	for seed := range uint64(12) {
		w := newMarket(t, seed, pairs)
		translator := New()
		known := bound(translator.Translate(w.now()))
		for step := range 40 {
			change := w.trade(pairs)
			all++
			result, ok := translator.Update(w.now(), change)
			if ok {
				taken++
				result.Adopt(known)
				known = bound(result)
			} else {
				known = bound(translator.Translate(w.now()))
			}
			want := bound(New().Translate(w.now()))
			known.Problems, want.Problems = nil, nil // of what was compiled
			if got, want := dump(known), dump(want); got != want {
				t.Fatalf("seed %d step %d after %v: got\n%s\nwant\n%s", seed, step, change, got, want)
			}
			if !maps.EqualFunc(known.IngressProblems, want.IngressProblems, sameElements) || !sameElements(names(known.Ingresses), names(want.Ingresses)) {
				t.Fatalf("seed %d step %d after %v: got %v\n%v\nwant %v\n%v", seed, step, change, known.Ingresses, known.IngressProblems, want.Ingresses, want.IngressProblems)
			}
			for i := range 4 {
				has := func(r *Result) (found []string) {
					for _, p := range r.Table.Ports() {
						for _, c := range p.Certificates("a.example.com") {
							found = append(found, fmt.Sprintf("%s %x", c.Source, c.Pair.Certificate[0][:60]))
						}
					}
					return found
				}
				if got, want := has(known), has(want); !slices.Equal(got, want) {
					t.Fatalf("seed %d step %d, secret %d: the certificates are %v, want %v", seed, step, i, got, want)
				}
			}
		}
	}
	t.Logf("%d of %d changes were compiled alone", taken, all)
	if taken < all {
		t.Errorf("only %d of %d changes were compiled alone", taken, all)
	}
}

func names(list []types.NamespacedName) (text []string) {
	for _, n := range list {
		text = append(text, n.String())
	}
	return text
}

func sameElements(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
