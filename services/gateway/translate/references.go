package translate

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// cachedCertificate is a parsed Secret; parsing again on every change of any
// route would dominate the translation.
type cachedCertificate struct {
	version string
	uid     types.UID
	cert    *route.Certificate // with err the last good one, or nil
	err     error
}

// certificate parses a Secret of type kubernetes.io/tls. With an error it returns
// what the Secret held before, if that was a certificate.
func (t *translation) certificate(name types.NamespacedName) (*route.Certificate, error) {
	secret := t.Secret(name)
	if secret == nil {
		delete(t.certificates, name)
		if t.Issuing != nil {
			if state := t.Issuing(name); state != "" {
				return nil, fmt.Errorf("Secret %s does not exist yet: %s", name, state)
			}
		}
		return nil, fmt.Errorf("Secret %s of type %s does not exist", name, corev1.SecretTypeTLS)
	}
	t.usedCerts[name] = true
	version := string(secret.UID) + "/" + secret.ResourceVersion
	if c, ok := t.certificates[name]; ok && c.version == version {
		return c.cert, c.err
	}
	c := cachedCertificate{version: version}
	if before, ok := t.certificates[name]; ok && before.uid == secret.UID {
		c.cert = before.cert // as long as there is no better one
	}
	c.uid = secret.UID
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		c.err = fmt.Errorf("Secret %s holds no key pair: %w", name, err)
	} else {
		c.cert = &route.Certificate{Source: name.String(), Pair: &pair}
	}
	t.certificates[name] = c
	return c.cert, c.err
}

// certificateRef resolves a listener's reference to a certificate.
func (t *translation) certificateRef(l *listener, ref gatewayv1.SecretObjectReference) (*route.Certificate, gatewayv1.ListenerConditionReason, error) {
	kind, owner := l.owner()
	return t.secretRef(kind, owner.GetNamespace(), ref)
}

// gatewayCertificate resolves a Gateway's own reference to a certificate.
func (t *translation) gatewayCertificate(g *gatewayv1.Gateway, ref gatewayv1.SecretObjectReference) (*route.Certificate, gatewayv1.ListenerConditionReason, error) {
	t.clientPairs[types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(g.Namespace))), Name: string(ref.Name)}] = true
	return t.secretRef("Gateway", g.Namespace, ref)
}

func (t *translation) secretRef(kind, namespace string, ref gatewayv1.SecretObjectReference) (*route.Certificate, gatewayv1.ListenerConditionReason, error) {
	if deref(ref.Group, "") != "" || deref(ref.Kind, "Secret") != "Secret" {
		return nil, gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Errorf("certificate reference to kind %s: only Secret is supported", deref(ref.Kind, ""))
	}
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(namespace))), Name: string(ref.Name)}
	if !t.granted(kind, namespace, "Secret", name) {
		return nil, gatewayv1.ListenerReasonRefNotPermitted, fmt.Errorf("Secret %s: no ReferenceGrant in namespace %s allows %ss of namespace %s", name, name.Namespace, kind, namespace)
	}
	cert, err := t.certificate(name)
	return cert, gatewayv1.ListenerReasonInvalidCertificateRef, err
}

// AuthoritiesEntry is where a ConfigMap has certificates of authorities, by the
// Gateway API.
const AuthoritiesEntry = "ca.crt"

// cachedAuthorities is a parsed ConfigMap.
type cachedAuthorities struct {
	version string
	certs   []*x509.Certificate
	err     error
}

// configMapAuthorities parses the certificates of a ConfigMap, all of which
// must be readable.
func (t *translation) configMapAuthorities(name types.NamespacedName) ([]*x509.Certificate, string, error) {
	t.asked[Reference{authoritiesOf, name}] = true
	m := t.ConfigMap(name)
	if m == nil {
		return nil, "", fmt.Errorf("ConfigMap %s with key %s does not exist", name, AuthoritiesEntry)
	}
	t.usedAuthorities[name] = true
	version := string(m.UID) + "/" + m.ResourceVersion
	if c, ok := t.authorities[name]; ok && c.version == version {
		return c.certs, version, c.err
	}
	c := cachedAuthorities{version: version}
	if c.certs, c.err = parseCertificates([]byte(m.Data[AuthoritiesEntry])); c.err != nil {
		c.err = fmt.Errorf("ConfigMap %s, key %s: %w", name, AuthoritiesEntry, c.err)
	}
	t.authorities[name] = c
	return c.certs, version, c.err
}

func parseCertificates(text []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return certs, nil
}

// authoritiesRef resolves a Gateway's reference to those who sign clients'
// certificates.
func (t *translation) authoritiesRef(g *gatewayv1.Gateway, ref gatewayv1.ObjectReference) (types.NamespacedName, []*x509.Certificate, gatewayv1.ListenerConditionReason, error) {
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(g.Namespace))), Name: string(ref.Name)}
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return name, nil, gatewayv1.ListenerReasonInvalidCACertificateKind, fmt.Errorf("CA certificate reference to kind %s: only ConfigMap is supported", ref.Kind)
	}
	if !t.granted("Gateway", g.Namespace, "ConfigMap", name) {
		return name, nil, gatewayv1.ListenerReasonRefNotPermitted, fmt.Errorf("ConfigMap %s: no ReferenceGrant in namespace %s allows Gateways of namespace %s", name, name.Namespace, g.Namespace)
	}
	certs, _, err := t.configMapAuthorities(name)
	return name, certs, gatewayv1.ListenerReasonInvalidCACertificateRef, err
}

// readGrants takes all grants.
func (t *translation) readGrants(list []*gatewayv1.ReferenceGrant) {
	t.grants = map[string][]*gatewayv1.ReferenceGrant{}
	for _, g := range list {
		t.grants[g.Namespace] = append(t.grants[g.Namespace], g)
	}
}

// granted says whether an object of a Gateway API kind may refer to a core
// object: in its own namespace always, elsewhere by ReferenceGrant.
func (t *translation) granted(fromKind, fromNamespace, toKind string, to types.NamespacedName) bool {
	if fromNamespace == to.Namespace {
		return true
	}
	if toKind != "Service" {
		t.lent[to.Namespace] = true
	}
	return slices.ContainsFunc(t.grants[to.Namespace], func(g *gatewayv1.ReferenceGrant) bool {
		return slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
			return f.Group == gatewayv1.GroupName && string(f.Kind) == fromKind && string(f.Namespace) == fromNamespace
		}) &&
			slices.ContainsFunc(g.Spec.To, func(to2 gatewayv1.ReferenceGrantTo) bool {
				return to2.Group == "" && string(to2.Kind) == toKind && (to2.Name == nil || string(*to2.Name) == to.Name)
			})
	})
}

// refusal is why a reference of a route cannot be used.
type refusal struct {
	reason  gatewayv1.RouteConditionReason
	message string
}

// backendRef resolves a route's reference to a Service. The Backend's refusal
// is in Invalid, too.
func (t *translation) backendRef(r *anyRoute, ref gatewayv1.BackendObjectReference) (route.Backend, *refusal) {
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(r.GetNamespace()))), Name: string(ref.Name)}
	b := route.Backend{Service: route.ServicePort{Namespace: name.Namespace, Name: name.Name, Port: deref(ref.Port, 0)}, HTTP2: r.kind == "GRPCRoute"}
	refused := t.resolveBackend(r, ref, name, &b)
	if refused != nil {
		b.Invalid = refused.message
	}
	return b, refused
}

func (t *translation) resolveBackend(r *anyRoute, ref gatewayv1.BackendObjectReference, name types.NamespacedName, b *route.Backend) *refusal {
	if deref(ref.Group, "") != "" || deref(ref.Kind, "Service") != "Service" {
		return &refusal{gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("backend of kind %s: only Service is supported", deref(ref.Kind, ""))}
	}
	if name.Namespace != r.GetNamespace() {
		t.refersAbroad(r, name.Namespace)
	}
	if !t.granted(r.kind, r.GetNamespace(), "Service", name) {
		return &refusal{gatewayv1.RouteReasonRefNotPermitted,
			fmt.Sprintf("Service %s: no ReferenceGrant in namespace %s allows %ss of namespace %s", name, name.Namespace, r.kind, r.GetNamespace())}
	}
	port, refused := t.servicePort(name, func(p corev1.ServicePort) bool { return p.Port == b.Service.Port }, fmt.Sprint(b.Service.Port))
	if refused != nil || r.stream() {
		return refused
	}
	tls, invalid := t.secured.of(name, port.Name)
	if b.TLS = tls; tls != nil || invalid != "" {
		b.Invalid = invalid // the route is right: only the policy is not
		return nil
	}
	return supportedProtocol(name, port)
}

// refersAbroad notes that a grant in another namespace decides about a route.
func (t *translation) refersAbroad(r *anyRoute, namespace string) {
	if t.abroad[namespace] == nil {
		t.abroad[namespace] = map[RouteName]bool{}
	}
	t.abroad[namespace][RouteName{r.kind, nameOf(r)}] = true
}

// servicePort finds a port of a Service that has endpoints.
func (t *translation) servicePort(name types.NamespacedName, is func(corev1.ServicePort) bool, wanted string) (corev1.ServicePort, *refusal) {
	var none corev1.ServicePort
	service := t.Service(name)
	if service == nil {
		return none, &refusal{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("Service %s does not exist", name)}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return none, &refusal{gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("Service %s is of type ExternalName, which has no endpoints: use a Service with endpoints", name)}
	}
	i := slices.IndexFunc(service.Spec.Ports, is)
	if i < 0 {
		return none, &refusal{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("Service %s has no port %s", name, wanted)}
	}
	return service.Spec.Ports[i], nil
}

// supportedProtocol refuses a port that speaks what requests cannot be sent by.
func supportedProtocol(name types.NamespacedName, port corev1.ServicePort) *refusal {
	if _, ok := protocolOf(port.AppProtocol); !ok {
		return &refusal{gatewayv1.RouteReasonUnsupportedProtocol,
			fmt.Sprintf("Service %s port %d has appProtocol %s, which needs a BackendTLSPolicy that says how to verify it", name, port.Port, *port.AppProtocol)}
	}
	return nil
}

// protocolOf reads a Service port's appProtocol. Names of protocols that say
// nothing about the transport, such as vendor-specific ones, mean HTTP/1.1.
func protocolOf(appProtocol *string) (route.Protocol, bool) {
	switch deref(appProtocol, "") {
	case "kubernetes.io/h2c", "grpc", "h2c", "http2":
		return route.H2C, true
	case "https", "kubernetes.io/wss", "tls":
		return route.HTTP1, false
	}
	return route.HTTP1, true
}

// hostPattern reads a host name of the Gateway API.
func hostPattern(name string) route.HostPattern { return route.HostPattern{Name: name} }
