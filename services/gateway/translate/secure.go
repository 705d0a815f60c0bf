package translate

import (
	"crypto/x509"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// secureListener resolves the certificates of a listener with TLS, and what
// clients must show.
func (t *translation) secureListener(l *listener) {
	tls := l.spec.TLS
	if tls == nil {
		tls = &gatewayv1.ListenerTLSConfig{}
	}
	mode := deref(tls.Mode, gatewayv1.TLSModeTerminate)
	https := l.spec.Protocol == gatewayv1.HTTPSProtocolType
	switch {
	case mode == gatewayv1.TLSModePassthrough && https:
		l.accept(false, gatewayv1.ListenerReasonUnsupportedValue, "tls.mode Passthrough needs protocol TLS: an HTTPS listener reads what it forwards")
		return
	case mode == gatewayv1.TLSModePassthrough:
		l.secure = &route.Secure{Mode: route.Passthrough}
		return
	case len(tls.CertificateRefs) == 0:
		l.resolve(false, gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("a listener of protocol %s needs tls.certificateRefs", l.spec.Protocol))
		return
	case !https:
		l.secure = &route.Secure{Mode: route.Terminate}
	}
	t.listenerWish(l)
	for _, ref := range tls.CertificateRefs {
		cert, reason, err := t.certificateRef(l, ref)
		switch {
		case err != nil && cert != nil:
			l.resolve(false, reason, err.Error()+"; the certificate that it held before is served")
			l.stale = true
		case err != nil:
			l.resolve(false, reason, err.Error())
			l.certificates = nil
			return
		}
		l.certificates = append(l.certificates, cert)
	}
	if https {
		t.clientValidation(l)
	}
}

// frontend is what the Gateway says about clients' certificates at a port.
func frontend(g *gatewayv1.Gateway, port gatewayv1.PortNumber) *gatewayv1.FrontendTLSValidation {
	if g.Spec.TLS == nil || g.Spec.TLS.Frontend == nil {
		return nil
	}
	for _, p := range g.Spec.TLS.Frontend.PerPort {
		if p.Port == port {
			return p.TLS.Validation
		}
	}
	return g.Spec.TLS.Frontend.Default.Validation
}

// clientValidation makes an HTTPS listener ask for clients' certificates. A
// reference that cannot be used leaves fewer authorities; with none at all the
// listener is not opened, rather than opened to everybody.
func (t *translation) clientValidation(l *listener) {
	validation := frontend(l.gateway, l.spec.Port)
	if validation == nil {
		return
	}
	l.secure = &route.Secure{Lenient: validation.Mode == gatewayv1.AllowInsecureFallback}
	var sources []string
	for _, ref := range validation.CACertificateRefs {
		name, certs, reason, err := t.authoritiesRef(l.gateway, ref)
		if err != nil {
			l.resolve(false, reason, err.Error())
			continue
		}
		if l.secure.ClientCAs == nil {
			l.secure.ClientCAs = x509.NewCertPool()
		}
		for _, c := range certs {
			l.secure.ClientCAs.AddCert(c)
		}
		sources = append(sources, name.String())
	}
	l.secure.Source = strings.Join(sources, ", ")
	if l.secure.ClientCAs == nil {
		l.accept(false, gatewayv1.ListenerReasonNoValidCACertificate, "none of the Gateway's tls.frontend caCertificateRefs can be used: "+l.resolved.Message)
	}
}

// clientCertificate is what a Gateway shows to its backends.
type clientCertificate struct {
	cert *route.Certificate // or nil
	// refused is why a certificate that is asked for cannot be used, or nil.
	refused *metav1.Condition
}

func (t *translation) clientCertificate(g *gatewayv1.Gateway) (c clientCertificate) {
	if g.Spec.TLS == nil || g.Spec.TLS.Backend == nil || g.Spec.TLS.Backend.ClientCertificateRef == nil {
		return c
	}
	cert, reason, err := t.gatewayCertificate(g, *g.Spec.TLS.Backend.ClientCertificateRef)
	if err != nil && cert == nil {
		if reason == gatewayv1.ListenerReasonInvalidCertificateRef {
			reason = gatewayv1.ListenerConditionReason(gatewayv1.GatewayReasonInvalidClientCertificateRef)
		}
		refused := condition(string(gatewayv1.GatewayConditionResolvedRefs), string(reason), false, g.Generation, "tls.backend.clientCertificateRef: "+err.Error())
		c.refused = &refused
	}
	c.cert = cert
	return c
}

// secureConditions are what a Gateway says about its TLS settings.
func (t *translation) secureConditions(g *gatewayv1.Gateway) (conditions []metav1.Condition) {
	if g.Spec.TLS == nil {
		return nil
	}
	if refused := t.clients[g].refused; refused != nil {
		conditions = append(conditions, *refused)
	} else if g.Spec.TLS.Backend != nil {
		conditions = append(conditions, condition(string(gatewayv1.GatewayConditionResolvedRefs), string(gatewayv1.GatewayReasonResolvedRefs), true, g.Generation, ""))
	}
	for _, l := range g.Spec.Listeners {
		if v := frontend(g, l.Port); v != nil && v.Mode == gatewayv1.AllowInsecureFallback && l.Protocol == gatewayv1.HTTPSProtocolType {
			return append(conditions, condition(string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), string(gatewayv1.GatewayReasonConfigurationChanged), true, g.Generation,
				fmt.Sprintf("clients without a valid certificate are served on port %d", l.Port)))
		}
	}
	return conditions
}
