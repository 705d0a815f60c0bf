package translate

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// town is a set of objects in which routes and Services come and go.
type town struct {
	random   *rand.Rand
	objects  Objects
	routes   map[types.NamespacedName]*gatewayv1.HTTPRoute
	services map[types.NamespacedName]*corev1.Service
	created  int64
}

func newTown(seed uint64) *town {
	all, port := gatewayv1.NamespacesFromAll, gatewayv1.PortNumber(80)
	w := &town{random: rand.New(rand.NewPCG(seed, 1)), routes: map[types.NamespacedName]*gatewayv1.HTTPRoute{}, services: map[types.NamespacedName]*corev1.Service{}}
	listener := func(name, host string) gatewayv1.Listener {
		hostname := gatewayv1.Hostname(host)
		return gatewayv1.Listener{
			Name: gatewayv1.SectionName(name), Port: port, Protocol: gatewayv1.HTTPProtocolType, Hostname: &hostname,
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &all}},
		}
	}
	w.objects = Objects{
		Classes: []*gatewayv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "gantry"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}},
		Gateways: []*gatewayv1.Gateway{{
			ObjectMeta: metav1.ObjectMeta{Name: "edge", Namespace: "edge"},
			Spec: gatewayv1.GatewaySpec{GatewayClassName: "gantry", Listeners: []gatewayv1.Listener{
				listener("any", ""), listener("wild", "*.example.com"), listener("one", "a.example.com"),
			}},
		}},
		Service:   func(n types.NamespacedName) *corev1.Service { return w.services[n] },
		HTTPRoute: func(n types.NamespacedName) *gatewayv1.HTTPRoute { return w.routes[n] },
		GRPCRoute: func(types.NamespacedName) *gatewayv1.GRPCRoute { return nil },
		Namespace: func(string) *corev1.Namespace { return nil },
	}
	return w
}

func pick[T any](w *town, list ...T) T { return list[w.random.IntN(len(list))] }

// step changes something and says what.
func (w *town) step() Change {
	c := Change{Routes: map[RouteName]bool{}, Services: map[types.NamespacedName]bool{}}
	for range 1 + w.random.IntN(3) {
		if w.random.IntN(4) == 0 {
			name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("service-", w.random.IntN(4))}
			if w.services[name] != nil && w.random.IntN(2) == 0 {
				delete(w.services, name)
			} else {
				w.services[name] = &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name.Name},
					Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: pick(w, int32(80), 81)}}},
				}
			}
			c.Services[name] = true
			continue
		}
		name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("route-", w.random.IntN(12))}
		if w.routes[name] != nil && w.random.IntN(3) == 0 {
			delete(w.routes, name)
		} else {
			w.routes[name] = w.route(name)
		}
		c.Routes[RouteName{"HTTPRoute", name}] = true
	}
	return c
}

func (w *town) route(name types.NamespacedName) *gatewayv1.HTTPRoute {
	namespace, port := gatewayv1.Namespace("edge"), gatewayv1.PortNumber(80)
	r := &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: name.Name, Namespace: name.Namespace}}
	if old := w.routes[name]; old != nil {
		r.CreationTimestamp, r.Generation = old.CreationTimestamp, old.Generation+1
	} else {
		w.created++
		r.CreationTimestamp = metav1.NewTime(time.Unix(w.created/3, 0)) // some of the same age
	}
	ref := gatewayv1.ParentReference{Name: "edge", Namespace: &namespace}
	if section := pick(w, "", "any", "wild", "nothing"); section != "" {
		s := gatewayv1.SectionName(section)
		ref.SectionName = &s
	}
	r.Spec.ParentRefs = []gatewayv1.ParentReference{ref}
	for range w.random.IntN(3) {
		r.Spec.Hostnames = append(r.Spec.Hostnames, pick[gatewayv1.Hostname](w, "a.example.com", "*.example.com", "b.example.com", "elsewhere.org"))
	}
	for range 1 + w.random.IntN(2) {
		path, kind := pick(w, "/", "/a", "/a/b", "/c/"), pick(w, gatewayv1.PathMatchPathPrefix, gatewayv1.PathMatchExact, gatewayv1.PathMatchRegularExpression)
		match := gatewayv1.HTTPRouteMatch{Path: &gatewayv1.HTTPPathMatch{Type: &kind, Value: &path}}
		if w.random.IntN(2) == 0 {
			match.Headers = []gatewayv1.HTTPHeaderMatch{{Name: "x", Value: pick(w, "1", "2")}}
		}
		r.Spec.Rules = append(r.Spec.Rules, gatewayv1.HTTPRouteRule{
			Matches: []gatewayv1.HTTPRouteMatch{match},
			BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
				Name: gatewayv1.ObjectName(fmt.Sprint("service-", w.random.IntN(4))), Port: &port,
			}}}},
		})
	}
	return r
}

// whole compiles everything anew.
func (w *town) whole() *Result {
	o := w.objects
	o.Routes = slices.Collect(maps.Values(w.routes))
	return bound(New().Translate(o))
}

func bound(r *Result) *Result {
	r.Bind(Reachable{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Bindings: bindings(r.Table)})
	return r
}

func dump(r *Result) string { return tableOf(r) + string(statuses(r)) }

func tableOf(r *Result) string {
	var b bytes.Buffer
	r.Table.Dump(&b)
	return b.String()
}

func TestAnUpdateEndsWhereAWholeTranslationDoes(t *testing.T) {
	for seed := range uint64(40) {
		w := newTown(seed)
		translator := New()
		known := bound(translator.Translate(w.objects))
		for step := range 40 {
			before, text := known.Table, dump(known)
			change := w.step()
			result, ok := translator.Update(w.objects, change)
			if !ok {
				t.Fatalf("seed %d step %d: %v was not taken", seed, step, change)
			}
			bound(result)
			result.Adopt(known)
			old := Result{Table: before, Gateways: known.Gateways, Routes: map[RouteName][]gatewayv1.RouteParentStatus{}}
			known = result
			known.Problems = nil
			if got, want := dump(known), dump(w.whole()); got != want {
				t.Fatalf("seed %d step %d after %v: got\n%s\nwant\n%s", seed, step, change, got, want)
			}
			var table bytes.Buffer
			old.Table.Dump(&table)
			if text[:table.Len()] != table.String() {
				t.Fatalf("seed %d step %d: the table before was changed: from\n%s\nto\n%s", seed, step, text, &table)
			}
		}
	}
}

func TestAnUpdateLeavesToAWholeTranslationWhatConcernsOthers(t *testing.T) {
	w := newTown(1)
	translator := New()
	if _, ok := translator.Update(w.objects, Change{}); ok {
		t.Error("there is nothing to update yet")
	}
	w.objects.GRPCRoutes = []*gatewayv1.GRPCRoute{{
		ObjectMeta: metav1.ObjectMeta{Name: "g", Namespace: "edge"},
		Spec: gatewayv1.GRPCRouteSpec{CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "edge"}}},
			Hostnames: []gatewayv1.Hostname{"g.example.com"}},
	}}
	w.objects.TLSRoute = func(types.NamespacedName) *gatewayv1.TLSRoute { return nil }
	w.objects.TCPRoute = func(types.NamespacedName) *gatewayv1.TCPRoute { return nil }
	name := types.NamespacedName{Namespace: "edge", Name: "r"}
	for host, alone := range map[gatewayv1.Hostname]bool{"h.example.com": true, "g.example.com": false, "*.example.com": false} {
		delete(w.routes, name)
		translator.Translate(w.objects)
		w.routes[name] = w.route(name)
		w.routes[name].Spec.ParentRefs[0].SectionName = nil
		w.routes[name].Spec.Hostnames = []gatewayv1.Hostname{host}
		if _, ok := translator.Update(w.objects, Change{Routes: map[RouteName]bool{{"HTTPRoute", name}: true}}); ok != alone {
			t.Errorf("an HTTPRoute for %s beside a GRPCRoute for g.example.com: compiled alone %v, want %v", host, ok, alone)
		}
	}
}
