package translate

import (
	"crypto/tls"
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
	cert    *route.Certificate
	err     error
}

// certificate parses a Secret of type kubernetes.io/tls.
func (t *translation) certificate(name types.NamespacedName) (*route.Certificate, error) {
	secret := t.Secret(name)
	if secret == nil {
		return nil, fmt.Errorf("Secret %s of type %s does not exist", name, corev1.SecretTypeTLS)
	}
	t.usedCerts[name] = true
	version := string(secret.UID) + "/" + secret.ResourceVersion
	if c, ok := t.certificates[name]; ok && c.version == version {
		return c.cert, c.err
	}
	c := cachedCertificate{version: version}
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
func (t *translation) certificateRef(g *gatewayv1.Gateway, ref gatewayv1.SecretObjectReference) (*route.Certificate, gatewayv1.ListenerConditionReason, error) {
	if deref(ref.Group, "") != "" || deref(ref.Kind, "Secret") != "Secret" {
		return nil, gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Errorf("certificate reference to kind %s: only Secret is supported", deref(ref.Kind, ""))
	}
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(g.Namespace))), Name: string(ref.Name)}
	if !t.granted("Gateway", g.Namespace, "Secret", name) {
		return nil, gatewayv1.ListenerReasonRefNotPermitted, fmt.Errorf("Secret %s: no ReferenceGrant in namespace %s allows Gateways of namespace %s", name, name.Namespace, g.Namespace)
	}
	cert, err := t.certificate(name)
	return cert, gatewayv1.ListenerReasonInvalidCertificateRef, err
}

// granted says whether an object of a Gateway API kind may refer to a core
// object: in its own namespace always, elsewhere by ReferenceGrant.
func (t *translation) granted(fromKind, fromNamespace, toKind string, to types.NamespacedName) bool {
	if fromNamespace == to.Namespace {
		return true
	}
	return slices.ContainsFunc(t.Grants, func(g *gatewayv1.ReferenceGrant) bool {
		return g.Namespace == to.Namespace &&
			slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
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

// backendRef resolves a route's reference to a Service. The ServicePort is
// meaningful only without refusal.
func (t *translation) backendRef(r *gatewayv1.HTTPRoute, ref gatewayv1.BackendObjectReference) (route.ServicePort, *refusal) {
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(r.Namespace))), Name: string(ref.Name)}
	port := route.ServicePort{Namespace: name.Namespace, Name: name.Name, Port: deref(ref.Port, 0)}
	if deref(ref.Group, "") != "" || deref(ref.Kind, "Service") != "Service" {
		return port, &refusal{gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("backend of kind %s: only Service is supported", deref(ref.Kind, ""))}
	}
	if !t.granted("HTTPRoute", r.Namespace, "Service", name) {
		return port, &refusal{gatewayv1.RouteReasonRefNotPermitted,
			fmt.Sprintf("Service %s: no ReferenceGrant in namespace %s allows HTTPRoutes of namespace %s", name, name.Namespace, r.Namespace)}
	}
	return port, t.servicePort(name, func(p corev1.ServicePort) bool { return p.Port == port.Port }, fmt.Sprint(port.Port))
}

// servicePort checks that a Service exists and has a port that can be served.
func (t *translation) servicePort(name types.NamespacedName, is func(corev1.ServicePort) bool, wanted string) *refusal {
	service := t.Service(name)
	if service == nil {
		return &refusal{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("Service %s does not exist", name)}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return &refusal{gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("Service %s is of type ExternalName, which has no endpoints: use a Service with endpoints", name)}
	}
	i := slices.IndexFunc(service.Spec.Ports, is)
	if i < 0 {
		return &refusal{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("Service %s has no port %s", name, wanted)}
	}
	if _, ok := protocolOf(service.Spec.Ports[i].AppProtocol); !ok {
		return &refusal{gatewayv1.RouteReasonUnsupportedProtocol,
			fmt.Sprintf("Service %s port %s has appProtocol %s, which is not supported: use http, kubernetes.io/h2c, kubernetes.io/ws or grpc", name, wanted, *service.Spec.Ports[i].AppProtocol)}
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
