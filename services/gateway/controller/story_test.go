package controller

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/proxy"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// world is an API with a running controller and data plane.
type world struct {
	t       *testing.T
	ctx     context.Context
	kube    *fake.Clientset
	gateway *gatewayfake.Clientset
	address string
	secure  string // address for HTTPS
}

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, ctx: ctx, kube: fake.NewClientset(), gateway: gatewayfake.NewSimpleClientset()}
	from := gatewayv1.NamespacesFromAll
	w.must(w.gateway.GatewayV1().GatewayClasses().Create(ctx, &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gantry"},
		Spec:       gatewayv1.GatewayClassSpec{ControllerName: translate.ControllerName},
	}, metav1.CreateOptions{}))
	w.must(w.gateway.GatewayV1().Gateways("gantry-system").Create(ctx, &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "gantry-system"},
		Spec: gatewayv1.GatewaySpec{GatewayClassName: "gantry", Listeners: []gatewayv1.Listener{{
			Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType,
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}},
		}}},
	}, metav1.CreateOptions{}))

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.secure = free.Addr().String()
	free.Close()
	dataPlane, err := proxy.New(proxy.Config{Listen: map[uint16]string{80: "127.0.0.1:0", 443: w.secure}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{
		Kube: w.kube, Gateway: w.gateway, Proxy: dataPlane, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Authorities: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := dataPlane.Shutdown(context.Background(), eventloop.Farewell, nil); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-c.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the controller did not get ready")
	}
	w.eventually("the Gateway has an address", func() string {
		g, _ := w.gateway.GatewayV1().Gateways("gantry-system").Get(ctx, "default", metav1.GetOptions{})
		for _, a := range g.Status.Addresses {
			if *a.Type == translate.URLAddress {
				w.address = a.Value
				return ""
			}
		}
		return fmt.Sprintf("status %+v", g.Status)
	})
	return w
}

func (w *world) must(_ any, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually polls until problem returns "".
func (w *world) eventually(what string, problem func() string) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s; last: %s", what, p)
		}
		<-tick.C
	}
}

// get asks the gateway and returns the status and the body.
func (w *world) get(host, path string) (int, string) {
	r, err := http.NewRequest("GET", w.address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Host = host
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

func (w *world) answers(host string, status int, body string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s answers %d %q", host, status, body), func() string {
		s, b := w.get(host, "/")
		if s == status && (body == "" || b == body) {
			return ""
		}
		return fmt.Sprint(s, " ", b)
	})
}

// service creates a Service whose only endpoint is a server that says body.
func (w *world) service(name, body string) *discoveryv1.EndpointSlice {
	w.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, body) }))
	w.t.Cleanup(server.Close)
	at := netip.MustParseAddrPort(server.Listener.Addr().String())
	port, portName, ready := int32(at.Port()), "http", true
	w.must(w.kube.CoreV1().Services("shop").Create(w.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: portName, Port: 80}}},
	}, metav1.CreateOptions{}))
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-1", Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		Ports:      []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{at.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
	w.must(w.kube.DiscoveryV1().EndpointSlices("shop").Create(w.ctx, slice, metav1.CreateOptions{}))
	return slice
}

func (w *world) route(name, host, service string, edit ...func(*gatewayv1.HTTPRoute)) {
	w.t.Helper()
	namespace, port := gatewayv1.Namespace("gantry-system"), gatewayv1.PortNumber(80)
	r := &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "default", Namespace: &namespace}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(host)},
			Rules: []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
				BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(service), Port: &port},
			}}}}},
		},
	}
	for _, e := range edit {
		e(r)
	}
	w.must(w.gateway.GatewayV1().HTTPRoutes("shop").Create(w.ctx, r, metav1.CreateOptions{}))
}

// hasCondition waits until the route's first parent says so.
func (w *world) hasCondition(route, kind string, status metav1.ConditionStatus, reason string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("route %s has %s=%s %s", route, kind, status, reason), func() string {
		r, err := w.gateway.GatewayV1().HTTPRoutes("shop").Get(w.ctx, route, metav1.GetOptions{})
		if err != nil || len(r.Status.Parents) == 0 {
			return fmt.Sprintf("no parents, %v", err)
		}
		c := meta.FindStatusCondition(r.Status.Parents[0].Conditions, kind)
		if c == nil || c.Status != status || c.Reason != reason || c.LastTransitionTime.IsZero() {
			return fmt.Sprintf("%+v", r.Status.Parents[0].Conditions)
		}
		return ""
	})
}

func TestARouteIsServedAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.service("web", "hello")
	w.route("shop", "shop.example.com", "web")
	w.answers("shop.example.com", 200, "hello")
	w.hasCondition("shop", "Accepted", metav1.ConditionTrue, "Accepted")
	w.hasCondition("shop", "ResolvedRefs", metav1.ConditionTrue, "ResolvedRefs")
	w.eventually("the statuses are complete", func() string {
		g, _ := w.gateway.GatewayV1().Gateways("gantry-system").Get(w.ctx, "default", metav1.GetOptions{})
		class, _ := w.gateway.GatewayV1().GatewayClasses().Get(w.ctx, "gantry", metav1.GetOptions{})
		if !meta.IsStatusConditionTrue(g.Status.Conditions, "Programmed") || !meta.IsStatusConditionTrue(class.Status.Conditions, "Accepted") ||
			len(class.Status.SupportedFeatures) == 0 || len(g.Status.Listeners) != 1 || g.Status.Listeners[0].AttachedRoutes != 1 {
			return fmt.Sprintf("%+v %+v", g.Status, class.Status)
		}
		return ""
	})
	w.must(nil, w.gateway.GatewayV1().HTTPRoutes("shop").Delete(w.ctx, "shop", metav1.DeleteOptions{}))
	w.answers("shop.example.com", 404, "")
}

func TestAnInvalidRouteLeavesTheOthers(t *testing.T) {
	w := newWorld(t)
	w.service("web", "hello")
	w.route("good", "good.example.com", "web")
	w.answers("good.example.com", 200, "hello")
	w.route("bad", "bad.example.com", "web", func(r *gatewayv1.HTTPRoute) {
		kind, expression := gatewayv1.PathMatchRegularExpression, "/("
		r.Spec.Rules[0].Matches = []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: &kind, Value: &expression}}}
	})
	w.route("dangling", "dangling.example.com", "nothing")
	w.hasCondition("bad", "Accepted", metav1.ConditionFalse, "UnsupportedValue")
	w.hasCondition("dangling", "ResolvedRefs", metav1.ConditionFalse, "BackendNotFound")
	w.answers("dangling.example.com", 500, "")
	w.answers("good.example.com", 200, "hello")
	w.service("nothing", "now there")
	w.hasCondition("dangling", "ResolvedRefs", metav1.ConditionTrue, "ResolvedRefs")
	w.answers("dangling.example.com", 200, "now there")
}

func TestEndpointsFollowTheSlices(t *testing.T) {
	w := newWorld(t)
	slice := w.service("web", "hello")
	w.route("shop", "shop.example.com", "web")
	w.answers("shop.example.com", 200, "hello")

	no, yes := false, true
	slice.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	w.must(w.kube.DiscoveryV1().EndpointSlices("shop").Update(w.ctx, slice, metav1.UpdateOptions{}))
	w.answers("shop.example.com", 503, "")

	slice = slice.DeepCopy()
	slice.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &yes}
	w.must(w.kube.DiscoveryV1().EndpointSlices("shop").Update(w.ctx, slice, metav1.UpdateOptions{}))
	w.answers("shop.example.com", 200, "hello")

	w.must(nil, w.kube.DiscoveryV1().EndpointSlices("shop").Delete(w.ctx, slice.Name, metav1.DeleteOptions{}))
	w.answers("shop.example.com", 503, "")
}

func TestAnIngressWithoutClassGetsALoadBalancer(t *testing.T) {
	w := newWorld(t)
	w.service("web", "hello")
	prefix := networkingv1.PathTypePrefix
	w.must(w.kube.NetworkingV1().Ingresses("shop").Create(w.ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}"}},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: "ingress.example.com", IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Name: "http"}},
			}}}},
		}}}},
	}, metav1.CreateOptions{}))
	w.answers("ingress.example.com", 200, "hello")
	w.eventually("the Ingress has an address", func() string {
		i, _ := w.kube.NetworkingV1().Ingresses("shop").Get(w.ctx, "shop", metav1.GetOptions{})
		if lb := i.Status.LoadBalancer.Ingress; len(lb) != 1 || lb[0].IP != "127.0.0.1" || len(lb[0].Ports) != 1 {
			return fmt.Sprintf("%+v", i.Status)
		}
		if i.Annotations[corev1.LastAppliedConfigAnnotation] == "" {
			return "writing the status has lost an annotation"
		}
		return ""
	})
}

func TestStatusesOfOtherControllersStay(t *testing.T) {
	w := newWorld(t)
	w.service("web", "hello")
	w.route("shop", "shop.example.com", "web", func(r *gatewayv1.HTTPRoute) {
		r.Status.Parents = []gatewayv1.RouteParentStatus{{ControllerName: "example.com/other", ParentRef: gatewayv1.ParentReference{Name: "theirs"}}}
	})
	w.eventually("both controllers have a say", func() string {
		r, _ := w.gateway.GatewayV1().HTTPRoutes("shop").Get(w.ctx, "shop", metav1.GetOptions{})
		if len(r.Status.Parents) == 2 && r.Status.Parents[0].ControllerName == "example.com/other" {
			return ""
		}
		return fmt.Sprintf("%+v", r.Status.Parents)
	})
}
