package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// certificateSecret holds the certificate of the webhooks, which all replicas of the service share.
const certificateSecret = "trust-tls"

// Certificate returns the certificate of the Service gantry-system/trust, which signs itself, and its
// PEM for Config.CABundle. It is made on first need, and again in its last month.
func Certificate(ctx context.Context, kube kubernetes.Interface) (tls.Certificate, []byte, error) {
	secrets := kube.CoreV1().Secrets(Namespace)
	secret, err := secrets.Get(ctx, certificateSecret, metav1.GetOptions{})
	if err == nil && ending(secret) {
		if err = secrets.Delete(ctx, certificateSecret, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}}); err == nil {
			secret, err = secrets.Get(ctx, certificateSecret, metav1.GetOptions{})
		}
	}
	if apierrors.IsNotFound(err) {
		var made *corev1.Secret
		if made, err = newCertificate(); err == nil {
			secret, err = secrets.Create(ctx, made, metav1.CreateOptions{})
		}
		if apierrors.IsAlreadyExists(err) { // another replica was faster
			secret, err = secrets.Get(ctx, certificateSecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("find the webhooks' certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return pair, nil, fmt.Errorf("secret %s/%s: %w", Namespace, certificateSecret, err)
	}
	return pair, secret.Data[corev1.TLSCertKey], nil
}

// ending is whether a certificate is in its last month, or none.
func ending(secret *corev1.Secret) bool {
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	return err != nil || time.Until(pair.Leaf.NotAfter) < 30*24*time.Hour
}

func newCertificate() (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	host := Name + "." + Namespace + ".svc"
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: certificateSecret}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}, nil
}

// Listen answers the webhooks on the network, with TLS, until ctx ends; then the listener is closed. Whoever can
// reach it can ask what a policy says about an image, and learns or changes nothing else.
func (s *Service) Listen(ctx context.Context, listener net.Listener, certificate tls.Certificate) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.ServeTLS(listener, "", "")
	if ctx.Err() != nil {
		return nil
	}
	return err
}
