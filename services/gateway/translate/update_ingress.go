package translate

import (
	"reflect"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ourIngress looks up an Ingress that this gateway serves.
func (t *translation) ourIngress(name RouteName) *networkingv1.Ingress {
	if i := t.Ingress(name.NamespacedName); i != nil && t.ownsIngress(i) {
		return i
	}
	return nil
}

// separableIngress says whether an Ingress can be compiled without the others: it takes part in
// no canary, and no policy is made of it.
func (t *translation) separableIngress(name RouteName, a *affected) bool {
	before, now := t.ingresses[name], t.ourIngress(name)
	if before == nil && now == nil {
		return true
	}
	empty := &networkingv1.Ingress{}
	if before == nil {
		before = empty
	}
	if now == nil {
		now = empty
	}
	a.certificates = a.certificates || !reflect.DeepEqual(before.Spec.TLS, now.Spec.TLS)
	for _, i := range []*networkingv1.Ingress{before, now} {
		if w := readAnnotations(i); w.canary != nil || w.access != nil || w.traffic != nil || t.hasCanary(i) {
			return false
		}
	}
	return true
}

// hasCanary says whether another Ingress takes a part of the requests of this one.
func (t *translation) hasCanary(i *networkingv1.Ingress) bool {
	return len(t.canaries) > 0 && slices.ContainsFunc(i.Spec.Rules, func(r networkingv1.IngressRule) bool {
		return r.HTTP != nil && slices.ContainsFunc(r.HTTP.Paths, func(p networkingv1.HTTPIngressPath) bool {
			return t.canaries[placeOf(i, r.Host, p)] != nil
		})
	})
}

// reclass finds the Ingresses that are ours from now on, or were so far.
func (t *translation) reclass(o Objects, a *affected) {
	t.IngressClasses = o.IngressClasses
	for _, i := range o.Ingresses {
		name := RouteName{"Ingress", nameOf(i)}
		if _, was := t.ingresses[name]; was != t.ownsIngress(i) {
			a.names[name] = true
		}
	}
}

// displaceIngress takes an Ingress out of the table.
func (t *translation) displaceIngress(name RouteName) {
	old := t.placed[name]
	if old == nil {
		return
	}
	delete(t.placed, name)
	delete(t.ingresses, name)
	delete(t.wished, name)
	delete(t.result.IngressProblems, name.NamespacedName)
	t.result.Ingresses = slices.DeleteFunc(t.result.Ingresses, func(n types.NamespacedName) bool { return n == name.NamespacedName })
	for _, s := range old.services {
		delete(t.users[s], name)
	}
	for _, p := range old.parts {
		t.builder.RemoveRules(p.port, p.tls, p.listener, p.host, p.match, "Ingress/"+name.Namespace+"/"+name.Name)
	}
}
