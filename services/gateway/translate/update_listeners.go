package translate

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// Gateways change seldom, but thousands of routes may be attached to one. So the listeners are
// found anew, which are few, and of the routes only those are looked at that are attached to a
// listener which is gone, or are to be attached to one that is new. A listener that lets in the
// same routes at the same place as before stays, whatever else about it is different.

// listenerName is a listener of a Gateway or ListenerSet.
type listenerName struct {
	parentName
	section gatewayv1.SectionName
}

func (l *listener) name() listenerName {
	return listenerName{parentOf(l.gateway, l.set), l.spec.Name}
}

// relisten finds the listeners again, and which routes and Ingresses are concerned.
func (t *translation) relisten(o Objects, a *affected) {
	a.policies = true // they may be for a Gateway
	a.opened = t.opened()
	before, clients := t.listeners, t.clientsByName()
	t.Classes, t.Gateways, t.ListenerSets = o.Classes, o.Gateways, o.ListenerSets
	t.result.Classes = map[string]gatewayv1.GatewayClassStatus{}
	t.listeners, t.byParent = nil, map[parentName][]*listener{}
	clear(t.addresses)
	clear(t.clients)
	clear(t.attached)
	for by := range t.wished {
		if by.Kind != "Ingress" {
			delete(t.wished, by)
		}
	}
	t.classes()
	t.assignAddresses()
	t.gateways()
	moved := t.carryOver(before, a)
	t.concernedRoutes(moved, a)
	t.concernedIngresses(moved, a)
	t.concernedByClients(clients, a)
}

// carryOver keeps the listeners that let in the same routes as before, with those, and returns
// the others.
func (t *translation) carryOver(before []*listener, a *affected) map[parentName]*moves {
	old := make(map[listenerName]*listener, len(before))
	for _, l := range before {
		old[l.name()] = l
	}
	moved := map[parentName]*moves{}
	of := func(l *listener) *moves {
		parent := parentOf(l.gateway, l.set)
		if moved[parent] == nil {
			moved[parent] = &moves{gone: map[*listener]bool{}}
		}
		return moved[parent]
	}
	t.byParent = map[parentName][]*listener{}
	for i, l := range t.listeners {
		if was := old[l.name()]; was == nil || !was.admitsLike(l) {
			of(l).fresh = append(of(l).fresh, l)
			a.certificates = a.certificates || len(l.certificates) > 0
		} else {
			delete(old, l.name())
			a.certificates = a.certificates || !slices.Equal(was.certificates, l.certificates)
			l.attached, l.hosts, l.kept = was.attached, was.hosts, was.kept
			if was.secure.Equal(l.secure) && was.secure.String() == l.secure.String() {
				l.secure = was.secure
			}
			*was = *l // which routes know
			t.listeners[i] = was
		}
		parent := parentOf(l.gateway, l.set)
		t.byParent[parent] = append(t.byParent[parent], t.listeners[i])
	}
	for _, l := range old {
		of(l).gone[l] = true
		a.certificates = a.certificates || len(l.certificates) > 0
	}
	return moved
}

// moves are the listeners of a Gateway or ListenerSet that are not what they were.
type moves struct {
	gone  map[*listener]bool
	fresh []*listener
}

// admitsLike says whether another version of a listener is at the same place for the same routes.
func (l *listener) admitsLike(o *listener) bool {
	return l.port == o.port && l.hostname == o.hostname && l.family == o.family && l.tls == o.tls && l.opens() == o.opens() &&
		nameOf(l.gateway) == nameOf(o.gateway) && slices.Equal(l.addresses, o.addresses) &&
		equality.Semantic.DeepEqual(l.kinds, o.kinds) && equality.Semantic.DeepEqual(l.spec.AllowedRoutes, o.spec.AllowedRoutes)
}

// concernedRoutes are attached to a listener that is gone, or may be to one that is new.
func (t *translation) concernedRoutes(moved map[parentName]*moves, a *affected) {
	for at, m := range moved {
		for name := range t.children[at] {
			if !a.resettled[name] && t.placed[name].concerned(t, at, m) {
				a.resettled[name] = true
			}
		}
	}
}

// concerned says whether a route may be attached to other listeners of a parent than it is.
func (p *placed) concerned(t *translation, at parentName, m *moves) bool {
	attached := false
	for _, on := range p.attachments {
		if m.gone[on.listener] {
			return true
		}
		attached = attached || parentOf(on.listener.gateway, on.listener.set) == at
	}
	if !attached {
		return true // and says why
	}
	r := p.route
	return slices.ContainsFunc(r.parents, func(ref gatewayv1.ParentReference) bool {
		of, ok := r.parentName(ref)
		return ok && of == at && slices.ContainsFunc(m.fresh, func(l *listener) bool {
			return selects(ref, l) && t.allows(l, r.kind, r.GetNamespace()) && len(hostsFor(l, r)) > 0
		})
	})
}

// concernedIngresses have a rule at a listener that is gone, or may get one at one that is new.
func (t *translation) concernedIngresses(moved map[parentName]*moves, a *affected) {
	for _, m := range moved {
		list := slices.Clone(m.fresh)
		for l := range m.gone {
			list = append(list, l)
		}
		for _, l := range list {
			if l.port != HTTPPort && l.port != HTTPSPort || !slices.Contains(l.addresses, sharedAddress) || !l.serves() {
				continue
			}
			speaks := l.family != rawTCP && l.tls == (l.port == HTTPSPort)
			if speaks && l.hostname == route.AnyHost {
				continue // Ingresses serve all hosts without it
			}
			a.certificates = a.certificates || !speaks // which may be of no use there
			for name, i := range t.ingresses {
				if !speaks || t.overlaps(name, i, l.hostname) {
					a.names[name] = true
				}
			}
		}
	}
}

// overlaps says whether an Ingress has, or wants, a rule for a host that the other name covers.
func (t *translation) overlaps(name RouteName, i *networkingv1.Ingress, hostname string) bool {
	covers := func(host string) bool {
		_, ok := route.Intersect(hostname, host)
		return ok
	}
	return i.Spec.DefaultBackend != nil ||
		slices.ContainsFunc(i.Spec.Rules, func(r networkingv1.IngressRule) bool { return covers(r.Host) }) ||
		slices.ContainsFunc(t.placed[name].parts, func(p ingressPlace) bool { return covers(p.host.Name) })
}

func (t *translation) clientsByName() map[types.NamespacedName]clientCertificate {
	list := make(map[types.NamespacedName]clientCertificate, len(t.clients))
	for g, c := range t.clients {
		list[nameOf(g)] = c
	}
	return list
}

// concernedByClients are routes by which a Gateway shows its backends another certificate.
func (t *translation) concernedByClients(before map[types.NamespacedName]clientCertificate, a *affected) {
	changed := map[*gatewayv1.Gateway]bool{}
	for g, c := range t.clients {
		if was, known := before[nameOf(g)]; known && (was.cert != c.cert || !equality.Semantic.DeepEqual(was.refused, c.refused)) {
			changed[g] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	for name, p := range t.placed {
		if slices.ContainsFunc(p.attachments, func(on attachment) bool { return changed[on.listener.gateway] }) {
			a.names[name] = true
		}
	}
}

// unsettle takes a route from the listeners that are gone or do not allow it any more.
func (t *translation) unsettle(name RouteName) {
	p := t.placed[name]
	if p == nil {
		return // it is compiled again, or gone
	}
	var left []*listener
	for _, on := range p.attachments {
		l := on.listener
		if !slices.Contains(t.byParent[parentOf(l.gateway, l.set)], l) || !t.allows(l, name.Kind, name.Namespace) {
			left = append(left, l)
		}
	}
	p.attachments = slices.DeleteFunc(p.attachments, func(on attachment) bool {
		// Listeners of several Gateways at the same place are one in the table.
		leaves := slices.ContainsFunc(left, func(l *listener) bool { return l.port == on.listener.port && l.hostname == on.listener.hostname })
		if leaves {
			t.detach(name, p, on)
		}
		return leaves
	})
}

// opened are the listeners in the table.
type opened map[openedAt]*route.Secure

type openedAt struct {
	address  netip.Addr
	port     uint16
	tls, raw bool
	hostname string
}

func (t *translation) opened() opened {
	list := opened{}
	for _, l := range t.listeners {
		for _, address := range l.addresses {
			if l.opens() {
				list[openedAt{address, l.port, l.tls, l.family == rawTCP, l.hostname}] = l.secure
			}
		}
	}
	return list
}

// reopen changes the listeners in the table from those that were there.
func (t *translation) reopen(before opened) {
	now := t.opened()
	for at := range before {
		if _, stays := now[at]; stays {
			continue
		}
		if b := t.builder.At(at.address); at.raw {
			b.RemoveRawListener(at.port)
		} else {
			b.RemoveListener(at.port, at.hostname)
		}
	}
	for at, secure := range now {
		was, known := before[at]
		if known && was == secure {
			continue
		}
		switch b := t.builder.At(at.address); {
		case at.raw:
			b.AddRawListener(at.port)
		case secure != nil:
			b.AddSecureListener(at.port, at.hostname, secure)
		default:
			if known {
				b.RemoveListener(at.port, at.hostname) // it is ordinary HTTPS from now on
			}
			b.AddListener(at.port, at.tls, at.hostname)
		}
	}
}

// resecure reads the BackendTLSPolicies again, and finds who sends requests to their Services.
func (t *translation) resecure(o Objects, a *affected) {
	before := t.secured
	t.BackendTLS = o.BackendTLS
	t.readBackendTLS()
	for _, targets := range []map[backendTarget]*backendTLSPolicy{before.byTarget, t.secured.byTarget} {
		for target := range targets {
			was, now := before.byTarget[target], t.secured.byTarget[target]
			if was == nil || now == nil || was.tls != now.tls || was.tls == nil {
				for name := range t.users[target.service] {
					a.names[name] = true
				}
			}
		}
	}
}
