package translate

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// routes and services of the benchmarks.
const (
	benchRoutes   = 10_000
	benchServices = 1_000
)

// BenchmarkTranslate10000Routes is what a change of a Gateway costs, and of
// everything else that Update does not take, before the new table is in force.
func BenchmarkTranslate10000Routes(b *testing.B) {
	o := manyRoutes()
	t := New()
	for b.Loop() {
		if n := len(t.Translate(o).Table.Routes()); n != benchRoutes {
			b.Fatalf("%d routes are served", n)
		}
	}
}

// BenchmarkUpdateOneOf10000Routes is what a change of a route costs.
func BenchmarkUpdateOneOf10000Routes(b *testing.B) {
	o := manyRoutes()
	t := New()
	t.Translate(o)
	for i := 0; b.Loop(); i++ {
		r := o.Routes[i%benchRoutes].DeepCopy()
		r.Generation++
		r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("host-%d.example.com", i%7_000))}
		o.HTTPRoute = func(types.NamespacedName) *gatewayv1.HTTPRoute { return r }
		result, ok := t.Update(o, Change{Routes: map[RouteName]bool{{"HTTPRoute", nameOf(r)}: true}})
		if !ok || len(result.Routes) != 1 {
			b.Fatalf("%v, %d routes have been compiled", ok, len(result.Routes))
		}
	}
}

func manyRoutes() Objects {
	const routes, services = benchRoutes, benchServices
	namespace, from, port := gatewayv1.Namespace("gantry-system"), gatewayv1.NamespacesFromAll, gatewayv1.PortNumber(80)
	o := Objects{
		Classes: []*gatewayv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "gantry"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}},
		Gateways: []*gatewayv1.Gateway{{
			ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "gantry-system"},
			Spec: gatewayv1.GatewaySpec{GatewayClassName: "gantry", Listeners: []gatewayv1.Listener{{
				Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType,
				AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}},
			}}},
		}},
		Service: func(n types.NamespacedName) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		},
	}
	for i := range routes {
		path := fmt.Sprintf("/api/%d", i%10)
		o.Routes = append(o.Routes, &gatewayv1.HTTPRoute{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("route-%d", i), Namespace: "shop"},
			Spec: gatewayv1.HTTPRouteSpec{
				CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "default", Namespace: &namespace}}},
				Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("host-%d.example.com", i/10))},
				Rules: []gatewayv1.HTTPRouteRule{{
					Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &path}}},
					BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
						Name: gatewayv1.ObjectName(fmt.Sprintf("service-%d", i%services)), Port: &port,
					}}}},
				}},
			},
		})
	}
	return o
}
