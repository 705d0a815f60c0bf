package translate

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// backendTLSPolicies is what BackendTLSPolicies say about Services.
type backendTLSPolicies struct {
	byTarget map[backendTarget]*backendTLSPolicy
	all      []*backendTLSPolicy
}

// backendTarget is a Service, or one port of it.
type backendTarget struct {
	service types.NamespacedName
	port    string // its name, or "" for all that have no policy of their own
}

// backendTLSPolicy is one policy and what became of it.
type backendTLSPolicy struct {
	object             *gatewayv1.BackendTLSPolicy
	services           []types.NamespacedName
	tls                *route.BackendTLS // nil if it cannot be used
	accepted, resolved metav1.Condition
}

// of returns how connections to a port of a Service are secured: nil for not at
// all, or why they cannot be.
func (p *backendTLSPolicies) of(service types.NamespacedName, port string) (*route.BackendTLS, string) {
	policy := p.byTarget[backendTarget{service, port}]
	if policy == nil {
		policy = p.byTarget[backendTarget{service, ""}]
	}
	switch {
	case policy == nil:
		return nil, ""
	case policy.tls == nil:
		return nil, fmt.Sprintf("BackendTLSPolicy %s cannot be used: %s", nameOf(policy.object), policy.accepted.Message)
	}
	return policy.tls, ""
}

// reaching are the Gateways that have routes to a Service, sorted.
func (t *translation) reaching(service types.NamespacedName) []types.NamespacedName {
	found := map[types.NamespacedName]bool{}
	for name := range t.users[service] {
		if p := t.placed[name]; p != nil {
			for _, a := range p.attachments {
				found[nameOf(a.listener.gateway)] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

// readBackendTLS finds out which policy decides about which Service, the older
// of two about the same.
func (t *translation) readBackendTLS() {
	t.secured = backendTLSPolicies{
		byTarget: map[backendTarget]*backendTLSPolicy{},
	}
	for _, o := range oldestFirst(t.BackendTLS) {
		p := t.backendTLSPolicy(o)
		t.secured.all = append(t.secured.all, p)
		for _, ref := range o.Spec.TargetRefs {
			if ref.Group != "" || ref.Kind != "Service" {
				continue
			}
			target := backendTarget{types.NamespacedName{Namespace: o.Namespace, Name: string(ref.Name)}, string(deref(ref.SectionName, ""))}
			p.services = append(p.services, target.service)
			if older := t.secured.byTarget[target]; older != nil {
				p.accepted = condition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonConflicted), false, o.Generation,
					fmt.Sprintf("BackendTLSPolicy %s is older and targets Service %s too", nameOf(older.object), target.service))
				continue
			}
			t.secured.byTarget[target] = p
		}
	}
}

// backendTLSPolicy resolves the references of one policy.
func (t *translation) backendTLSPolicy(o *gatewayv1.BackendTLSPolicy) *backendTLSPolicy {
	p := &backendTLSPolicy{
		object:   o,
		accepted: condition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonAccepted), true, o.Generation, ""),
		resolved: condition(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), string(gatewayv1.BackendTLSPolicyReasonResolvedRefs), true, o.Generation, ""),
	}
	v := &o.Spec.Validation
	identity := []string{string(o.UID), fmt.Sprint(o.Generation), nameOf(o).String()}
	var roots *x509.CertPool
	for _, ref := range v.CACertificateRefs {
		certs, version, reason, err := t.policyAuthorities(o, ref)
		if err != nil {
			p.resolved = condition(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), string(reason), false, o.Generation, err.Error())
			continue
		}
		if roots == nil {
			roots = x509.NewCertPool()
		}
		for _, c := range certs {
			roots.AddCert(c)
		}
		identity = append(identity, version)
	}
	system := deref(v.WellKnownCACertificates, "") == gatewayv1.WellKnownCACertificatesSystem
	switch {
	case v.WellKnownCACertificates != nil && !system:
		p.accepted = condition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonInvalid), false, o.Generation,
			fmt.Sprintf("wellKnownCACertificates %s is not supported: use System", *v.WellKnownCACertificates))
		return p
	case roots == nil && !system:
		p.accepted = condition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), false, o.Generation,
			"none of its caCertificateRefs can be used: "+p.resolved.Message)
		return p
	}
	p.tls = t.intern(strings.Join(identity, " "), func() *route.BackendTLS {
		b := &route.BackendTLS{ServerName: string(v.Hostname), Roots: roots, Source: nameOf(o).String()}
		for _, name := range v.SubjectAltNames {
			switch name.Type {
			case gatewayv1.HostnameSubjectAltNameType:
				b.Names = append(b.Names, string(name.Hostname))
			case gatewayv1.URISubjectAltNameType:
				b.URIs = append(b.URIs, string(name.URI))
			}
		}
		return b
	})
	return p
}

func (t *translation) policyAuthorities(o *gatewayv1.BackendTLSPolicy, ref gatewayv1.LocalObjectReference) ([]*x509.Certificate, string, gatewayv1.PolicyConditionReason, error) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return nil, "", gatewayv1.BackendTLSPolicyReasonInvalidKind, fmt.Errorf("CA certificate reference to kind %s: only ConfigMap is supported", ref.Kind)
	}
	certs, version, err := t.configMapAuthorities(types.NamespacedName{Namespace: o.Namespace, Name: string(ref.Name)})
	return certs, version, gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, err
}

// intern returns the same pointer for the same identity in every translation.
func (t *translation) intern(identity string, create func() *route.BackendTLS) *route.BackendTLS {
	t.usedBackendTLS[identity] = true
	b := t.Translator.backendTLS[identity]
	if b == nil {
		b = create()
		t.Translator.backendTLS[identity] = b
	}
	return b
}

// withClientCertificate is the rule for the requests that come by a Gateway
// which shows its backends a certificate.
func (t *translation) withClientCertificate(rule *route.Rule, g *gatewayv1.Gateway) *route.Rule {
	client := t.clients[g]
	encrypted := slices.ContainsFunc(rule.Backends, func(b route.Backend) bool { return b.TLS != nil }) ||
		slices.ContainsFunc(rule.Mirrors, func(m route.Mirror) bool { return m.TLS != nil })
	if client.cert == nil && client.refused == nil || !encrypted {
		return rule
	}
	show := func(to **route.BackendTLS, invalid *string) {
		switch plain := *to; {
		case plain == nil:
		case client.refused != nil:
			*invalid = client.refused.Message
		default:
			*to = t.intern(fmt.Sprintf("%p with %p", plain, client.cert), func() *route.BackendTLS {
				shown := *plain
				shown.Client = client.cert
				return &shown
			})
		}
	}
	own := *rule
	own.Backends, own.Mirrors = slices.Clone(rule.Backends), slices.Clone(rule.Mirrors)
	for i := range own.Backends {
		show(&own.Backends[i].TLS, &own.Backends[i].Invalid)
	}
	for i := range own.Mirrors {
		show(&own.Mirrors[i].TLS, &own.Mirrors[i].Invalid)
	}
	return &own
}

// backendTLSStatuses writes what became of the policies, for each Gateway that
// has routes to their Services.
func (t *translation) backendTLSStatuses() {
	for _, p := range t.secured.all {
		var ancestors []gatewayv1.PolicyAncestorStatus
		var seen []types.NamespacedName
		for _, service := range p.services {
			for _, g := range t.reaching(service) {
				if slices.Contains(seen, g) {
					continue
				}
				seen = append(seen, g)
				ancestors = append(ancestors, gatewayv1.PolicyAncestorStatus{
					AncestorRef:    gatewayReference(g),
					ControllerName: ControllerName,
					Conditions:     []metav1.Condition{p.accepted, p.resolved},
				})
			}
		}
		if ancestors != nil {
			t.result.BackendTLS[nameOf(p.object)] = ancestors[:min(len(ancestors), 16)] // as many as the API takes
		}
	}
}

func gatewayReference(g types.NamespacedName) gatewayv1.ParentReference {
	group, kind, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind("Gateway"), gatewayv1.Namespace(g.Namespace)
	return gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(g.Name)}
}
