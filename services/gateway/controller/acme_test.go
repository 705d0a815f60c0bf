package controller

import (
	"crypto/tls"
	"net/netip"
	"net/url"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/services/gateway/acme/acmetest"
)

// An annotation is all that a host needs for a certificate: the authority asks the gateway's
// own port for the proof, and the certificate is served as soon as it is there.
func TestAnAnnotationBringsACertificate(t *testing.T) {
	w := newWorld(t)
	u, err := url.Parse(w.address)
	if err != nil {
		t.Fatal(err)
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	authority := acmetest.Authority(t, int(at.Port()))
	const host = "shop.example.com"
	w.must(w.kube.NetworkingV1().Ingresses("shop").Create(w.ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop", Annotations: map[string]string{"gantry.dev/acme-directory": authority.URL + acmetest.Directory}},
		Spec: networkingv1.IngressSpec{
			TLS: []networkingv1.IngressTLS{{Hosts: []string{host}, SecretName: "shop-tls"}},
			Rules: []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: new(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{
					Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}},
				}}},
			}}}},
		},
	}, metav1.CreateOptions{}))
	w.eventually("the certificate is served", func() string {
		conn, err := tls.Dial("tcp", w.secure, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		if err := conn.ConnectionState().PeerCertificates[0].VerifyHostname(host); err != nil {
			return err.Error()
		}
		return ""
	})
	secret, err := w.kube.CoreV1().Secrets("shop").Get(w.ctx, "shop-tls", metav1.GetOptions{})
	if err != nil || secret.Type != "kubernetes.io/tls" {
		t.Errorf("the Secret is %+v, %v", secret, err)
	}
}
