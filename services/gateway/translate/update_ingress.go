package translate

import (
	"reflect"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// ourIngress looks up an Ingress that this gateway serves.
func (t *translation) ourIngress(name RouteName) *networkingv1.Ingress {
	if i := t.Ingress(name.NamespacedName); i != nil && t.ownsIngress(i) {
		return i
	}
	return nil
}

// separableIngress says whether an Ingress can be compiled without the others: it offers
// the certificates that it did, takes part in no canary, and no policy is made of it or
// for it.
func (t *translation) separableIngress(name RouteName) bool {
	if t.Ingress == nil || len(t.canaries) > 0 || t.hasPolicy(name) {
		return false
	}
	before, now := t.ingresses[name], t.ourIngress(name)
	if before == nil && now == nil {
		return true
	}
	if now == nil && len(t.ingresses) == 1 {
		return false // it may be why a port is open
	}
	empty := &networkingv1.Ingress{}
	if before == nil {
		before = empty
	}
	if now == nil {
		now = empty
	}
	if !reflect.DeepEqual(before.Spec.TLS, now.Spec.TLS) || before.Annotations[acmeDirectory] != now.Annotations[acmeDirectory] || before.Annotations[acmeEmail] != now.Annotations[acmeEmail] {
		return false
	}
	for _, i := range []*networkingv1.Ingress{before, now} {
		if w := readAnnotations(i); w.canary != nil || w.access != nil || w.traffic != nil {
			return false
		}
		for _, s := range servicesOf(i) {
			if t.secured.targeted[s] {
				return false
			}
		}
	}
	return true
}

func servicesOf(i *networkingv1.Ingress) (list []types.NamespacedName) {
	add := func(b *networkingv1.IngressBackend) {
		if b != nil && b.Service != nil {
			list = append(list, types.NamespacedName{Namespace: i.Namespace, Name: b.Service.Name})
		}
	}
	add(i.Spec.DefaultBackend)
	for _, r := range i.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for p := range r.HTTP.Paths {
			add(&r.HTTP.Paths[p].Backend)
		}
	}
	return list
}

// displaceIngress takes an Ingress out of the table.
func (t *translation) displaceIngress(name RouteName) {
	old := t.placed[name]
	if old == nil {
		return
	}
	delete(t.placed, name)
	delete(t.ingresses, name)
	delete(t.result.IngressProblems, name.NamespacedName)
	t.result.Ingresses = slices.DeleteFunc(t.result.Ingresses, func(n types.NamespacedName) bool { return n == name.NamespacedName })
	for _, s := range old.services {
		delete(t.users[s], name)
	}
	for _, p := range old.parts {
		t.builder.RemoveRules(p.port, p.tls, p.listener, p.host, p.match, "Ingress/"+name.Namespace+"/"+name.Name)
	}
}

// knownCertificates are those that the table has already.
func (t *translation) knownCertificates(i *networkingv1.Ingress) (secure func(host string) bool) {
	return t.eachIngressCertificate(i, func(string, *route.Certificate) {})
}
