package translate

import (
	"fmt"
	"net/http"
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
	t.builder.SetOrder(route.Order{Class: 1, Age: i.CreationTimestamp.Unix(), Name: nameOf(i).String()})
	t.result.Ingresses = append(t.result.Ingresses, nameOf(i))
	t.ingressWishes(i)
	secure := t.ingressCertificates(i)
	add := func(host string, match route.Match, backend networkingv1.IngressBackend) {
		rule := &route.Rule{
			Route:    "Ingress/" + i.Namespace + "/" + i.Name,
			Backends: []route.Backend{t.ingressBackend(i, backend)},
		}
		rule = t.protect(nil, rule)
		pattern := route.HostPattern{Name: host, OneLabel: true}
		plain := rule
		if secure(host) {
			t.addIngressRule(i, HTTPSPort, true, pattern, match, rule)
			if i.Annotations[redirectAnnotation] != "false" && i.Annotations[legacyRedirectAnnotation] != "false" {
				plain = &route.Rule{Route: rule.Route, Redirect: &route.Redirect{Scheme: "https", Status: http.StatusPermanentRedirect}}
			}
		}
		t.addIngressRule(i, HTTPPort, false, pattern, match, plain)
	}
	hosts := []string{}
	for _, r := range i.Spec.Rules {
		host := strings.ToLower(r.Host)
		hosts = append(hosts, host)
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
			add(host, match, p.Backend)
		}
	}
	if i.Spec.DefaultBackend == nil {
		return
	}
	// Added last, so that any rule for "/" of the same host comes before it.
	for _, host := range append(hosts, route.AnyHost) {
		add(host, route.Match{Kind: route.Prefix, Path: "/"}, *i.Spec.DefaultBackend)
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
			t.problem("Ingress %s: port %d speaks another protocol by %s", nameOf(i), port, l)
			return
		}
		if l.secure != nil && l.secure.Mode != route.HTTPS {
			continue
		}
		if _, ok := route.Intersect(l.hostname, host.Name); ok && l.hostname != route.AnyHost {
			t.builder.AddRule(port, tls, l.hostname, host, match, rule)
		}
	}
	t.builder.AddRule(port, tls, route.AnyHost, host, match, rule)
}

// ingressCertificates offers the certificates of an Ingress and returns which
// hosts have one.
func (t *translation) ingressCertificates(i *networkingv1.Ingress) (secure func(host string) bool) {
	var covered []string
	for _, spec := range i.Spec.TLS {
		if spec.SecretName == "" {
			continue
		}
		cert, err := t.certificate(types.NamespacedName{Namespace: i.Namespace, Name: spec.SecretName})
		if err != nil {
			t.problem("Ingress %s: %v", nameOf(i), err)
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
			t.builder.AddCertificate(HTTPSPort, route.HostPattern{Name: host, OneLabel: true}, cert)
			covered = append(covered, host)
		}
	}
	return func(host string) bool {
		return slices.ContainsFunc(covered, func(c string) bool {
			_, ok := route.Intersect(c, host)
			return ok && host != route.AnyHost || c == host
		})
	}
}

func (t *translation) ingressBackend(i *networkingv1.Ingress, backend networkingv1.IngressBackend) route.Backend {
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
	t.fixed[name] = true
	port, refused := t.servicePort(name, is, text)
	if refused == nil {
		b.Service.Port = port.Port
		if b.TLS, b.Invalid = t.secured.of(name, port.Name); b.TLS == nil && b.Invalid == "" {
			refused = supportedProtocol(name, port)
		}
	}
	if refused != nil {
		b.Invalid = refused.message
		t.problem("Ingress %s: %s", nameOf(i), refused.message)
	}
	return b
}

func (t *translation) problem(format string, args ...any) {
	t.result.Problems = append(t.result.Problems, fmt.Sprintf(format, args...))
}
