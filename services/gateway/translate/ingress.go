package translate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// legacyClassAnnotation is how Ingresses named their class before the field.
const legacyClassAnnotation = "kubernetes.io/ingress.class"

// ingressClass is the class an Ingress may name without an IngressClass object.
const ingressClass = "gantry"

// Hosts with a certificate are redirected from HTTP to HTTPS unless one of these
// annotations of the Ingress is "false".
const (
	redirectAnnotation       = "gantry.dev/ssl-redirect"
	legacyRedirectAnnotation = "nginx.ingress.kubernetes.io/ssl-redirect"
)

// ingress adds the rules of an Ingress: to port 80, or for hosts with a
// certificate to port 443, with a redirect on port 80. An Ingress belongs to no Gateway; it shares the ports
// with whatever listeners Gateways have there.
func (t *translation) ingress(i *networkingv1.Ingress) {
	if !t.ownsIngress(i) {
		return
	}
	place := RouteName{"Ingress", nameOf(i)}
	t.ingresses[place], t.placed[place] = i, &placed{}
	t.builder.SetOrder(route.Order{Class: 1, Age: i.CreationTimestamp.Unix(), Name: nameOf(i).String()})
	t.result.Ingresses = append(t.result.Ingresses, nameOf(i))
	w := readAnnotations(i)
	defer func() { t.report(i, w.problems) }()
	if err := t.guardProblem(target{"Ingress", i.Namespace, i.Name, annotationsSection}); err != nil {
		w.say("what annotations protect is refused until they are right: %v", err)
	}
	if w.canary != nil {
		return // its rules are parts of those that it is a canary of
	}
	t.ingressWishes(i)
	secure := t.certified(i)
	name := "Ingress/" + i.Namespace + "/" + i.Name
	stays := i.Annotations[redirectAnnotation] == "false" || i.Annotations[legacyRedirectAnnotation] == "false"
	serve := func(host string, match route.Match, rule *route.Rule) {
		pattern := route.HostPattern{Name: host, OneLabel: true}
		plain := rule
		if secure(host) {
			t.addIngressRule(i, HTTPSPort, true, pattern, match, t.protect(nil, rule))
		}
		if w.forceTLS || secure(host) && !stays {
			plain = toHTTPS(name)
		}
		t.addIngressRule(i, HTTPPort, false, pattern, match, t.protect(nil, plain))
	}
	add := func(host string, match route.Match, backend networkingv1.IngressBackend, part *canary) {
		rule := &route.Rule{Route: name, Backends: []route.Backend{t.ingressBackend(i, w, backend)}}
		w.apply(rule, &match)
		for _, m := range part.split(match, rule) {
			for _, h := range append([]string{host}, w.aliases...) {
				serve(h, m.match, m.rule)
			}
		}
	}
	hosts := []string{}
	for _, r := range i.Spec.Rules {
		host := strings.ToLower(r.Host)
		hosts = append(hosts, host)
		w.extras(name, host, serve)
		if r.HTTP == nil {
			continue
		}
		for _, p := range r.HTTP.Paths {
			match := route.Match{Kind: route.Prefix, Path: p.Path}
			if deref(p.PathType, networkingv1.PathTypePrefix) == networkingv1.PathTypeExact {
				match.Kind = route.Exact
			}
			if match.Path == "" {
				match.Path = "/"
			}
			add(host, match, p.Backend, t.canaries[placeOf(i, r.Host, p)])
		}
	}
	if i.Spec.DefaultBackend == nil {
		return
	}
	// Added last, so that any rule for "/" of the same host comes before it.
	for _, host := range append(hosts, route.AnyHost) {
		add(host, route.Match{Kind: route.Prefix, Path: "/"}, *i.Spec.DefaultBackend, nil)
	}
}

// ownsIngress says whether the Ingress names a class of this gateway, or none.
func (t *translation) ownsIngress(i *networkingv1.Ingress) bool {
	name := i.Annotations[legacyClassAnnotation]
	if i.Spec.IngressClassName != nil {
		name = *i.Spec.IngressClassName
	}
	if name == "" || name == ingressClass {
		return true
	}
	return slices.ContainsFunc(t.IngressClasses, func(c *networkingv1.IngressClass) bool {
		return c.Name == name && c.Spec.Controller == ControllerName
	})
}

// addIngressRule adds a rule to every listener of the port that covers the
// host, and to the one for all hosts, which an Ingress opens if nobody else did.
func (t *translation) addIngressRule(i *networkingv1.Ingress, port uint16, tls bool, host route.HostPattern, match route.Match, rule *route.Rule) {
	for _, l := range t.listeners {
		if l.port != port || !l.serves() || !slices.Contains(t.addresses[l.gateway], sharedAddress) {
			continue
		}
		if l.tls != tls || l.family == rawTCP {
			t.ingressProblem(i, "port %d speaks another protocol by %s", port, l)
			return
		}
		if l.secure != nil && l.secure.Mode != route.HTTPS {
			continue
		}
		if _, ok := route.Intersect(l.hostname, host.Name); ok && l.hostname != route.AnyHost {
			t.addIngressPart(i, ingressPlace{port, tls, l.hostname, host, match}, rule)
		}
	}
	t.addIngressPart(i, ingressPlace{port, tls, route.AnyHost, host, match}, rule)
}

// ingressPlace is where in the table a rule of an Ingress is.
type ingressPlace struct {
	port     uint16
	tls      bool
	listener string
	host     route.HostPattern
	match    route.Match
}

func (t *translation) addIngressPart(i *networkingv1.Ingress, p ingressPlace, rule *route.Rule) {
	t.builder.AddRule(p.port, p.tls, p.listener, p.host, p.match, rule)
	at := t.placed[RouteName{"Ingress", nameOf(i)}]
	at.parts = append(at.parts, p)
}

// certified returns which hosts of an Ingress have a certificate.
func (t *translation) certified(i *networkingv1.Ingress) func(host string) bool {
	var covered []string
	t.eachIngressCertificate(i, func(host string, _ *route.Certificate) { covered = append(covered, host) },
		func(err error) { t.ingressProblem(i, "%v", err) })
	return func(host string) bool {
		return slices.ContainsFunc(covered, func(c string) bool {
			_, ok := route.Intersect(c, host)
			return ok && host != route.AnyHost || c == host
		})
	}
}

// offerCertificates puts the certificates of all listeners and Ingresses into the table.
func (t *translation) offerCertificates() {
	for _, l := range t.listeners {
		if !l.opens() {
			continue
		}
		for _, b := range t.builders(l) {
			for _, cert := range l.certificates {
				b.AddCertificate(l.port, hostPattern(l.hostname), cert)
			}
		}
	}
	var secure []*networkingv1.Ingress
	for _, i := range t.ingresses {
		if len(i.Spec.TLS) > 0 && i.Annotations[annotationPrefix+"canary"] != "true" {
			secure = append(secure, i)
		}
	}
	for _, i := range oldestFirst(secure) {
		t.eachIngressCertificate(i, func(host string, cert *route.Certificate) {
			t.builder.AddCertificate(HTTPSPort, route.HostPattern{Name: host, OneLabel: true}, cert)
		}, func(error) {})
	}
}

func (t *translation) eachIngressCertificate(i *networkingv1.Ingress, offer func(host string, cert *route.Certificate), problem func(error)) {
	for _, spec := range i.Spec.TLS {
		if spec.SecretName == "" {
			continue
		}
		cert, err := t.certificate(types.NamespacedName{Namespace: i.Namespace, Name: spec.SecretName})
		if err != nil {
			problem(err)
		}
		if cert == nil {
			continue
		}
		hosts := spec.Hosts
		if len(hosts) == 0 {
			hosts = []string{route.AnyHost}
		}
		for _, host := range hosts {
			host = strings.ToLower(host)
			offer(host, cert)
		}
	}
}

func (t *translation) ingressBackend(i *networkingv1.Ingress, w *wishes, backend networkingv1.IngressBackend) route.Backend {
	if backend.Service == nil {
		return route.Backend{Weight: 1, Invalid: "a resource backend is not supported: name a service"}
	}
	name := types.NamespacedName{Namespace: i.Namespace, Name: backend.Service.Name}
	wanted := backend.Service.Port
	b := route.Backend{Weight: 1, Service: route.ServicePort{Namespace: name.Namespace, Name: name.Name, Port: wanted.Number}}
	is := func(p corev1.ServicePort) bool { return p.Port == wanted.Number }
	text := fmt.Sprint(wanted.Number)
	if wanted.Name != "" {
		is = func(p corev1.ServicePort) bool { return p.Name == wanted.Name }
		text = wanted.Name
	}
	t.use(RouteName{"Ingress", nameOf(i)}, []types.NamespacedName{name})
	port, refused := t.servicePort(name, is, text)
	if refused == nil {
		b.Service.Port = port.Port
		if b.TLS, b.Invalid = t.secured.of(name, port.Name); b.TLS == nil && b.Invalid == "" {
			refused = supportedProtocol(name, port)
		}
	}
	if refused != nil {
		b.Invalid = refused.message
		t.ingressProblem(i, "%s", refused.message)
		return b
	}
	if w.secure && b.TLS == nil {
		b.Invalid = "annotation " + annotationPrefix + "backend-protocol wants encrypted connections: say in a BackendTLSPolicy how to verify the Service"
		t.ingressProblem(i, "%s", b.Invalid)
	}
	b.HTTP2 = w.http2
	return b
}

// report says what is wrong with an Ingress, each once.
func (t *translation) report(i *networkingv1.Ingress, problems []string) {
	for n, p := range problems {
		if !slices.Contains(problems[:n], p) {
			t.ingressProblem(i, "%s", p)
		}
	}
}

// ingressProblem notes what is wrong with an Ingress.
func (t *translation) ingressProblem(i *networkingv1.Ingress, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	name := nameOf(i)
	t.result.IngressProblems[name] = append(t.result.IngressProblems[name], text)
	t.problem("Ingress %s: %s", name, text)
}

func (t *translation) problem(format string, args ...any) {
	t.result.Problems = append(t.result.Problems, fmt.Sprintf(format, args...))
}
