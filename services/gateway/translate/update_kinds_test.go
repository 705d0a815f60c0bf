package translate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// land is a set of objects of all kinds that come, change and go.
type land struct {
	random  *rand.Rand
	pairs   []map[string][]byte
	objects map[string]map[types.NamespacedName]metav1.Object // by kind
	made    int64
}

func newLand(seed uint64, pairs []map[string][]byte) *land {
	w := &land{random: rand.New(rand.NewPCG(seed, 2)), pairs: pairs, objects: map[string]map[types.NamespacedName]metav1.Object{}}
	for _, kind := range kindsOfLand {
		w.objects[kind] = map[types.NamespacedName]metav1.Object{}
	}
	for _, kind := range []string{"Class", "Gateway", "Gateway", "Service", "Service", "Secret", "Secret", "ConfigMap", "Namespace", "IngressClass"} {
		w.put(kind, w.name(kind))
	}
	return w
}

var kindsOfLand = []string{
	"Class", "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "Grant", "BackendTLS", "Ingress", "IngressClass",
	"Service", "Secret", "ConfigMap", "Namespace", "Traffic",
}

func choose[T any](w *land, list ...T) T { return list[w.random.IntN(len(list))] }

// name is one of the few that objects of a kind have.
func (w *land) name(kind string) types.NamespacedName {
	switch kind {
	case "Class", "IngressClass":
		return types.NamespacedName{Name: choose(w, "gantry", "other")}
	case "Namespace":
		return types.NamespacedName{Name: choose(w, "a", "b")}
	}
	many := 2
	if kind == "HTTPRoute" || kind == "TLSRoute" || kind == "Ingress" {
		many = 4
	}
	return types.NamespacedName{Namespace: choose(w, "a", "b"), Name: fmt.Sprint(choose(w, "x", "y"), w.random.IntN(many))}
}

// step changes an object or a few.
func (w *land) step() Change {
	var c Change
	for range 1 + w.random.IntN(2) {
		kind := choose(w, kindsOfLand...)
		name := w.name(kind)
		if w.objects[kind][name] != nil && w.random.IntN(4) == 0 {
			delete(w.objects[kind], name)
		} else {
			w.put(kind, name)
		}
		switch kind {
		case "Class", "Gateway", "ListenerSet":
			c.Listeners = true
		case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "Ingress":
			mark(&c.Routes, RouteName{kind, name})
		case "Grant":
			mark(&c.Grants, name.Namespace)
		case "BackendTLS":
			c.BackendTLS = true
		case "IngressClass":
			c.IngressClasses = true
		case "Service":
			mark(&c.Services, name)
		case "Traffic":
			c.Policies = true
		default:
			mark(&c.References, Reference{kind, name})
		}
	}
	return c
}

func mark[K comparable](set *map[K]bool, key K) {
	if *set == nil {
		*set = map[K]bool{}
	}
	(*set)[key] = true
}

// put writes a new version of an object.
func (w *land) put(kind string, name types.NamespacedName) {
	w.made++
	meta := metav1.ObjectMeta{
		Namespace: name.Namespace, Name: name.Name, UID: types.UID(fmt.Sprint(w.made)), Generation: 1,
		CreationTimestamp: metav1.NewTime(time.Unix(w.made/2, 0)), ResourceVersion: fmt.Sprint(w.made),
	}
	if old := w.objects[kind][name]; old != nil {
		meta.UID, meta.Generation, meta.CreationTimestamp = old.GetUID(), old.GetGeneration()+1, old.GetCreationTimestamp()
	}
	w.objects[kind][name] = w.version(kind, meta)
}

func (w *land) version(kind string, meta metav1.ObjectMeta) metav1.Object {
	controller := gatewayv1.GatewayController(choose(w, ControllerName, ControllerName, ControllerName, "elsewhere"))
	switch kind {
	case "Class":
		return &gatewayv1.GatewayClass{ObjectMeta: meta, Spec: gatewayv1.GatewayClassSpec{ControllerName: controller}}
	case "IngressClass":
		return &networkingv1.IngressClass{ObjectMeta: meta, Spec: networkingv1.IngressClassSpec{Controller: string(controller)}}
	case "Gateway":
		return w.gateway(meta)
	case "ListenerSet":
		s := &gatewayv1.ListenerSet{ObjectMeta: meta}
		s.Spec.ParentRef.Namespace, s.Spec.ParentRef.Name = new(gatewayv1.Namespace(choose(w, "a", "b"))), gatewayv1.ObjectName(w.name("Gateway").Name)
		for i := range 1 + w.random.IntN(2) {
			l := w.listener(i)
			s.Spec.Listeners = append(s.Spec.Listeners, gatewayv1.ListenerEntry{Name: l.Name, Hostname: l.Hostname, Port: l.Port, Protocol: l.Protocol, TLS: l.TLS, AllowedRoutes: l.AllowedRoutes})
		}
		return s
	case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute":
		return w.route(kind, meta)
	case "Grant":
		var from []gatewayv1.ReferenceGrantFrom
		for _, k := range []gatewayv1.Kind{"HTTPRoute", "TLSRoute", "Gateway", "ListenerSet"} {
			from = append(from, gatewayv1.ReferenceGrantFrom{Group: gatewayv1.GroupName, Kind: k, Namespace: gatewayv1.Namespace(choose(w, "a", "b"))})
		}
		return &gatewayv1.ReferenceGrant{ObjectMeta: meta, Spec: gatewayv1.ReferenceGrantSpec{From: from, To: []gatewayv1.ReferenceGrantTo{{Kind: choose[gatewayv1.Kind](w, "Service", "Secret")}}}}
	case "BackendTLS":
		p := &gatewayv1.BackendTLSPolicy{ObjectMeta: meta}
		ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
		ref.Kind, ref.Name = "Service", gatewayv1.ObjectName(w.name("Service").Name)
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, ref)
		p.Spec.Validation.Hostname = choose[gatewayv1.PreciseHostname](w, "one.test", "two.test")
		p.Spec.Validation.CACertificateRefs = []gatewayv1.LocalObjectReference{{Kind: "ConfigMap", Name: gatewayv1.ObjectName(w.name("ConfigMap").Name)}}
		return p
	case "Ingress":
		return w.ingress(meta)
	case "Service":
		return &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: choose(w, int32(80), 80, 81)}}}}
	case "Secret":
		return &corev1.Secret{ObjectMeta: meta, Type: corev1.SecretTypeTLS, Data: choose(w, append(w.pairs, map[string][]byte{})...)}
	case "ConfigMap":
		return &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{AuthoritiesEntry: string(choose(w, append(w.pairs, map[string][]byte{})...)[corev1.TLSCertKey])}}
	case "Namespace":
		meta.Labels = map[string]string{"open": choose(w, "yes", "no")}
		return &corev1.Namespace{ObjectMeta: meta}
	case "Traffic":
		p := &v1alpha1.TrafficPolicy{ObjectMeta: meta}
		ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
		ref.Group, ref.Kind = gatewayv1.GroupName, choose[gatewayv1.Kind](w, "Gateway", "HTTPRoute", "TLSRoute", "TCPRoute")
		ref.Name = gatewayv1.ObjectName(w.name(string(ref.Kind)).Name)
		if ref.Kind == "Gateway" && w.random.IntN(2) == 0 {
			ref.SectionName = new(gatewayv1.SectionName("l0"))
		}
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, ref)
		p.Spec.RateLimits = []v1alpha1.RateLimit{{Name: "rate", Requests: int64(1 + w.random.IntN(3))}}
		return p
	}
	panic(kind)
}

func (w *land) gateway(meta metav1.ObjectMeta) *gatewayv1.Gateway {
	g := &gatewayv1.Gateway{ObjectMeta: meta}
	g.Spec.GatewayClassName = choose[gatewayv1.ObjectName](w, "gantry", "gantry", "gantry", "other")
	for i := range 1 + w.random.IntN(3) {
		g.Spec.Listeners = append(g.Spec.Listeners, w.listener(i))
	}
	if w.random.IntN(3) == 0 {
		g.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: new(gatewayv1.NamespacesFromAll)}}
	}
	if w.random.IntN(4) == 0 {
		g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: choose(w, "192.0.2.1", "192.0.2.2")}}
	}
	ca := gatewayv1.ObjectReference{Kind: "ConfigMap", Name: gatewayv1.ObjectName(w.name("ConfigMap").Name)}
	g.Spec.TLS = choose(w, nil, nil,
		&gatewayv1.GatewayTLSConfig{Frontend: &gatewayv1.FrontendTLSConfig{Default: gatewayv1.TLSConfig{Validation: &gatewayv1.FrontendTLSValidation{CACertificateRefs: []gatewayv1.ObjectReference{ca}}}}},
		&gatewayv1.GatewayTLSConfig{Backend: &gatewayv1.GatewayBackendTLS{ClientCertificateRef: &gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(w.name("Secret").Name)}}})
	return g
}

func (w *land) listener(i int) gatewayv1.Listener {
	l := gatewayv1.Listener{Name: gatewayv1.SectionName(fmt.Sprint("l", i)), Protocol: choose(w, gatewayv1.HTTPProtocolType, gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType, gatewayv1.TCPProtocolType)}
	l.Port = map[gatewayv1.ProtocolType]gatewayv1.PortNumber{gatewayv1.HTTPProtocolType: 80, gatewayv1.HTTPSProtocolType: 443, gatewayv1.TLSProtocolType: 443, gatewayv1.TCPProtocolType: 5432}[l.Protocol]
	if w.random.IntN(10) == 0 {
		l.Port = choose[gatewayv1.PortNumber](w, 80, 443, 5432)
	}
	if host := choose[gatewayv1.Hostname](w, "", "*.example.com", "a.example.com"); host != "" {
		l.Hostname = &host
	}
	secret := gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(w.name("Secret").Name)}
	if w.random.IntN(4) == 0 {
		secret.Namespace = new(gatewayv1.Namespace(choose(w, "a", "b")))
	}
	switch {
	case l.Protocol == gatewayv1.TLSProtocolType && w.random.IntN(2) == 0:
		l.TLS = &gatewayv1.ListenerTLSConfig{Mode: new(gatewayv1.TLSModePassthrough)}
	case l.Protocol == gatewayv1.TLSProtocolType, l.Protocol == gatewayv1.HTTPSProtocolType:
		l.TLS = &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{secret}}
	}
	from := choose(w, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromSelector)
	l.AllowedRoutes = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}}
	if from == gatewayv1.NamespacesFromSelector {
		l.AllowedRoutes.Namespaces.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"open": "yes"}}
	}
	return l
}

func (w *land) route(kind string, meta metav1.ObjectMeta) metav1.Object {
	var common gatewayv1.CommonRouteSpec
	for range 1 + w.random.IntN(2) {
		k := choose[gatewayv1.Kind](w, "Gateway", "Gateway", "ListenerSet")
		ref := gatewayv1.ParentReference{Kind: &k, Namespace: new(gatewayv1.Namespace(choose(w, "a", "b"))), Name: gatewayv1.ObjectName(w.name(string(k)).Name)}
		if w.random.IntN(3) == 0 {
			ref.SectionName = new(gatewayv1.SectionName(fmt.Sprint("l", w.random.IntN(3))))
		}
		common.ParentRefs = append(common.ParentRefs, ref)
	}
	var hosts []gatewayv1.Hostname
	if w.random.IntN(2) == 0 || kind == "TLSRoute" {
		hosts = append(hosts, choose[gatewayv1.Hostname](w, "a.example.com", "*.example.com", "b.example.com"))
	}
	back := gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(w.name("Service").Name), Port: new(gatewayv1.PortNumber(80))}}
	if w.random.IntN(3) == 0 {
		back.Namespace = new(gatewayv1.Namespace(choose(w, "a", "b")))
	}
	switch kind {
	case "HTTPRoute":
		match := gatewayv1.HTTPRouteMatch{Path: &gatewayv1.HTTPPathMatch{Value: new(choose(w, "/", "/a", "/a/b"))}}
		return &gatewayv1.HTTPRoute{ObjectMeta: meta, Spec: gatewayv1.HTTPRouteSpec{CommonRouteSpec: common, Hostnames: hosts,
			Rules: []gatewayv1.HTTPRouteRule{{Matches: []gatewayv1.HTTPRouteMatch{match}, BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: back}}}}}}
	case "GRPCRoute":
		return &gatewayv1.GRPCRoute{ObjectMeta: meta, Spec: gatewayv1.GRPCRouteSpec{CommonRouteSpec: common, Hostnames: []gatewayv1.Hostname{choose[gatewayv1.Hostname](w, "g.example.com", "b.example.com")},
			Rules: []gatewayv1.GRPCRouteRule{{BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: back}}}}}}
	case "TLSRoute":
		return &gatewayv1.TLSRoute{ObjectMeta: meta, Spec: gatewayv1.TLSRouteSpec{CommonRouteSpec: common, Hostnames: hosts, Rules: []gatewayv1.TLSRouteRule{{BackendRefs: []gatewayv1.BackendRef{back}}}}}
	}
	return &gatewayv1.TCPRoute{ObjectMeta: meta, Spec: gatewayv1.TCPRouteSpec{CommonRouteSpec: common, Rules: []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{back}}}}}
}

func (w *land) ingress(meta metav1.ObjectMeta) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: meta}
	if class := choose(w, "", "gantry", "other"); class != "" {
		i.Spec.IngressClassName = &class
	}
	host := choose(w, "a.example.com", "b.example.com", "*.example.com", "")
	kind := networkingv1.PathTypePrefix
	i.Spec.Rules = []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
		Path: choose(w, "/", "/i"), PathType: &kind, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: w.name("Service").Name, Port: networkingv1.ServiceBackendPort{Number: 80}}},
	}}}}}}
	if w.random.IntN(2) == 0 {
		i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example.com"}, SecretName: w.name("Secret").Name}}
		if w.random.IntN(3) == 0 {
			i.Annotations = map[string]string{acmeDirectory: "letsencrypt"}
		}
	}
	return i
}

func listed[T metav1.Object](w *land, kind string) (list []T) {
	for _, o := range w.objects[kind] {
		list = append(list, o.(T))
	}
	return list
}

func found[T metav1.Object](w *land, kind string) func(types.NamespacedName) T {
	return func(n types.NamespacedName) T {
		o, _ := w.objects[kind][n].(T)
		return o
	}
}

func (w *land) now() Objects {
	return Objects{
		Classes: listed[*gatewayv1.GatewayClass](w, "Class"), Gateways: listed[*gatewayv1.Gateway](w, "Gateway"), ListenerSets: listed[*gatewayv1.ListenerSet](w, "ListenerSet"),
		Routes: listed[*gatewayv1.HTTPRoute](w, "HTTPRoute"), GRPCRoutes: listed[*gatewayv1.GRPCRoute](w, "GRPCRoute"),
		TLSRoutes: listed[*gatewayv1.TLSRoute](w, "TLSRoute"), TCPRoutes: listed[*gatewayv1.TCPRoute](w, "TCPRoute"),
		Grants: listed[*gatewayv1.ReferenceGrant](w, "Grant"), BackendTLS: listed[*gatewayv1.BackendTLSPolicy](w, "BackendTLS"),
		Ingresses: listed[*networkingv1.Ingress](w, "Ingress"), IngressClasses: listed[*networkingv1.IngressClass](w, "IngressClass"),
		TrafficPolicies: listed[*v1alpha1.TrafficPolicy](w, "Traffic"),
		HTTPRoute:       found[*gatewayv1.HTTPRoute](w, "HTTPRoute"), GRPCRoute: found[*gatewayv1.GRPCRoute](w, "GRPCRoute"),
		TLSRoute: found[*gatewayv1.TLSRoute](w, "TLSRoute"), TCPRoute: found[*gatewayv1.TCPRoute](w, "TCPRoute"), Ingress: found[*networkingv1.Ingress](w, "Ingress"),
		Service: found[*corev1.Service](w, "Service"), Secret: found[*corev1.Secret](w, "Secret"), ConfigMap: found[*corev1.ConfigMap](w, "ConfigMap"),
		Namespace: func(n string) *corev1.Namespace {
			return found[*corev1.Namespace](w, "Namespace")(types.NamespacedName{Name: n})
		},
	}
}

// certificatesOf are what clients get by each name.
func certificatesOf(r *Result) (text []string) {
	for _, p := range r.Table.Ports() {
		for _, name := range []string{"a.example.com", "b.example.com", "elsewhere"} {
			for _, c := range p.Certificates(name) {
				text = append(text, fmt.Sprintf("%s %s %s %x", p.At(), name, c.Source, c.Pair.Certificate[0][:60]))
			}
		}
	}
	return text
}

func TestAChangeOfAnyKindEndsWhereAWholeTranslationDoes(t *testing.T) {
	pairs := []map[string][]byte{keyPair(t, "a.example.com"), keyPair(t, "b.example.com"), keyPair(t, "a.example.com")}
	taken, all := 0, 0
	for seed := range uint64(40) {
		w := newLand(seed, pairs)
		translator := New()
		known := bound(translator.Translate(w.now()))
		for step := range 80 {
			change := w.step()
			all++
			result, ok := translator.Update(w.now(), change)
			if ok {
				taken++
				result.Adopt(known)
				known = bound(result)
			} else {
				known = bound(translator.Translate(w.now()))
			}
			// What was right some time ago is served on; a translator that sees all for the first time knows nothing of it.
			again := New()
			again.good, again.certificates = maps.Clone(translator.good), maps.Clone(translator.certificates)
			want := bound(again.Translate(w.now()))
			known.Problems, want.Problems = nil, nil // of what was compiled
			if got, want := dump(known), dump(want); got != want {
				t.Fatalf("seed %d step %d after %+v: got\n%s\nwant\n%s", seed, step, change, got, want)
			}
			if got, want := certificatesOf(known), certificatesOf(want); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d after %+v: the certificates are %v, want %v", seed, step, change, got, want)
			}
			if !maps.EqualFunc(known.IngressProblems, want.IngressProblems, sameElements) {
				t.Fatalf("seed %d step %d after %+v: problems %v, want %v", seed, step, change, known.IngressProblems, want.IngressProblems)
			}
		}
	}
	t.Logf("%d of %d changes were compiled alone", taken, all)
	if taken < all*3/4 {
		t.Errorf("only %d of %d changes were compiled alone", taken, all)
	}
}

// A Gateway keeps its address of the pool also if the next one, which would come before it, is
// there before its status has been written.
func TestAGatewayKeepsItsAddressBeforeItsStatusSaysSo(t *testing.T) {
	gateway := func(name string) *gatewayv1.Gateway {
		return &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name)}, Spec: gatewayv1.GatewaySpec{GatewayClassName: "gantry",
			Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}}}}
	}
	objects := Objects{
		Classes:  []*gatewayv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "gantry"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}},
		Gateways: []*gatewayv1.Gateway{gateway("second")},
	}.withLookUps()
	translator := New()
	translator.Pool = netip.MustParsePrefix("192.0.2.0/24")
	addressOf := func(r *Result) string {
		return bound(r).Gateways[types.NamespacedName{Namespace: "a", Name: "second"}].Addresses[0].Value
	}
	before := addressOf(translator.Translate(objects))
	objects.Gateways = append(objects.Gateways, gateway("first"))
	result, ok := translator.Update(objects, Change{Listeners: true})
	if !ok || addressOf(result) != before {
		t.Errorf("compiled alone: %v; the address was %s and is %s", ok, before, addressOf(result))
	}
	if after := addressOf(translator.Translate(objects)); after != before {
		t.Errorf("the address was %s and is %s", before, after)
	}
}
