package translate

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// routes and services of the benchmarks.
const (
	benchRoutes   = 10_000
	benchServices = 1_000
)

// BenchmarkTranslate10000Routes is what everything costs that Update does not take.
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
	for i, r := range o.Routes {
		r.Spec.Hostnames[0] = gatewayv1.Hostname(fmt.Sprintf("host-%d.example.com", i))
	}
	b.ReportAllocs()
	measureUpdates(b, o, func(i int) (Objects, Change) {
		r := o.Routes[i%benchRoutes].DeepCopy()
		r.Generation++
		r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("host-%d.example.com", i%7_000))}
		o.HTTPRoute = func(types.NamespacedName) *gatewayv1.HTTPRoute { return r }
		return o, Change{Routes: map[RouteName]bool{{"HTTPRoute", nameOf(r)}: true}}
	})
}

// BenchmarkUpdateAListenerOf10000Routes is what it costs when the Gateway of all routes gets a
// listener for one host, or loses it.
func BenchmarkUpdateAListenerOf10000Routes(b *testing.B) { changeListeners(b, "host-1.example.com") }

// BenchmarkUpdateAListenerFor10000Routes is the same for a listener that all routes are
// attached to.
func BenchmarkUpdateAListenerFor10000Routes(b *testing.B) { changeListeners(b, "") }

func changeListeners(b *testing.B, host gatewayv1.Hostname) {
	o := manyRoutes().withLookUps()
	one := o.Gateways[0]
	two := one.DeepCopy()
	listener := *two.Spec.Listeners[0].DeepCopy()
	listener.Name, listener.Port = "other", 8080
	if host != "" {
		listener.Hostname = &host
	}
	two.Spec.Listeners = append(two.Spec.Listeners, listener)
	measureUpdates(b, o, func(i int) (Objects, Change) {
		o.Gateways = []*gatewayv1.Gateway{[]*gatewayv1.Gateway{two, one}[i%2]}
		return o, Change{Listeners: true}
	})
}

// BenchmarkUpdateOneOf10000Ingresses is what a change of an Ingress costs.
func BenchmarkUpdateOneOf10000Ingresses(b *testing.B) {
	o := manyRoutes()
	o.Routes = nil
	for i := range benchRoutes {
		o.Ingresses = append(o.Ingresses, manyIngress(i, i/10))
	}
	measureUpdates(b, o, func(i int) (Objects, Change) {
		changed := manyIngress(i%benchRoutes, i%7_000)
		o.Ingress = func(types.NamespacedName) *networkingv1.Ingress { return changed }
		return o, Change{Routes: map[RouteName]bool{{"Ingress", nameOf(changed)}: true}}
	})
}

// BenchmarkRotateOneOf1000Certificates is what a new certificate costs.
func BenchmarkRotateOneOf1000Certificates(b *testing.B) {
	o := manyRoutes()
	pairs := []map[string][]byte{keyPair(b, "any.example.com"), keyPair(b, "any.example.com")}
	version := 0
	o.Secret = func(n types.NamespacedName) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name, ResourceVersion: fmt.Sprint(version)}, Data: pairs[version%2]}
	}
	for i := range benchServices {
		in := manyIngress(i, i)
		in.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{in.Spec.Rules[0].Host}, SecretName: in.Name}}
		o.Ingresses = append(o.Ingresses, in)
	}
	measureUpdates(b, o, func(i int) (Objects, Change) {
		version++
		return o, Change{References: map[Reference]bool{{"Secret", nameOf(o.Ingresses[i%benchServices])}: true}}
	})
}

// BenchmarkUpdateAPolicyOf10000Routes is what a change of a policy of their Gateway costs.
func BenchmarkUpdateAPolicyOf10000Routes(b *testing.B) {
	o := manyRoutes().withLookUps()
	ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
	ref.Group, ref.Kind, ref.Name = gatewayv1.GroupName, "Gateway", "default"
	measureUpdates(b, o, func(i int) (Objects, Change) {
		p := &v1alpha1.TrafficPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "gantry-system", Name: "limits"}}
		p.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName{ref}
		p.Spec.RateLimits = []v1alpha1.RateLimit{{Name: "rate", Requests: int64(i + 1)}}
		o.TrafficPolicies = []*v1alpha1.TrafficPolicy{p}
		return o, Change{Policies: true}
	})
}

// BenchmarkUpdateAGrantOf100Routes is what a change of a ReferenceGrant costs that 100 of
// 10,000 routes need.
func BenchmarkUpdateAGrantOf100Routes(b *testing.B) {
	o := manyRoutes()
	for _, r := range o.Routes[:100] {
		r.Spec.Rules[0].BackendRefs[0].Namespace = new(gatewayv1.Namespace("store"))
	}
	o = o.withLookUps()
	measureUpdates(b, o, func(i int) (Objects, Change) {
		o.Grants = []*gatewayv1.ReferenceGrant{{ObjectMeta: metav1.ObjectMeta{Namespace: "store", Name: "to-shop"}, Spec: gatewayv1.ReferenceGrantSpec{
			From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Namespace: "shop"}},
			To:   []gatewayv1.ReferenceGrantTo{{Kind: "Service"}},
		}}}[i%2:]
		return o, Change{Grants: map[string]bool{"store": true}}
	})
}

// measureUpdates reports the processor time of one update in 100, which unlike the time
// that it takes does not depend on what else the machine does.
func measureUpdates(b *testing.B, o Objects, change func(i int) (Objects, Change)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	t := New()
	t.Translate(o)
	var took []int64
	for i := 0; b.Loop(); i++ {
		o, c := change(i)
		began := used()
		if _, ok := t.Update(o, c); !ok {
			b.Fatalf("%v was not compiled alone", c)
		}
		took = append(took, used()-began)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "cpu-ms-p99")
}

func manyIngress(i, host int) *networkingv1.Ingress {
	return &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("ingress-%d", i), Namespace: "shop"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{
			Host: fmt.Sprintf("host-%d.example.com", host),
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
				Path: fmt.Sprintf("/api/%d", i%10), PathType: new(networkingv1.PathTypePrefix),
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: fmt.Sprintf("service-%d", i%benchServices), Port: networkingv1.ServiceBackendPort{Number: 80}}},
			}}}},
		}}},
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
