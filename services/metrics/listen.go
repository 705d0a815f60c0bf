package metrics

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Listen serves at an address of the network until ctx ends: TLS, with a certificate of its own
// making, and only for the API server, which shows the client certificate that its ConfigMap
// kube-system/extension-apiserver-authentication announces. The API server has authorized what
// it sends on.
func (s *Server) Listen(ctx context.Context, address string) error {
	client, err := kubernetes.NewForConfig(s.cfg.Client)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	certificate, err := selfSigned(Name + "." + Namespace + ".svc")
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	callers := &callers{client: client}
	if _, err := callers.get(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate},
			ClientAuth: tls.RequireAnyClientCert, VerifyConnection: func(c tls.ConnectionState) error { return callers.verify(ctx, c) },
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err = server.ServeTLS(listener, "", "")
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// authentication is where an API server says how it shows itself to extension servers.
const authentication = "extension-apiserver-authentication"

// callers knows the API server's client certificates.
type callers struct {
	client kubernetes.Interface

	mu    sync.Mutex // guards following
	known *caller
	read  time.Time
}

type caller struct {
	authorities *x509.CertPool
	names       []string // common names that may call; none is any
}

// get reads who may call, at most once a minute.
func (c *callers) get(ctx context.Context) (*caller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known != nil && time.Since(c.read) < time.Minute {
		return c.known, nil
	}
	config, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, authentication, metav1.GetOptions{})
	if err != nil {
		if c.known != nil {
			return c.known, nil // as before, while the API is away
		}
		return nil, fmt.Errorf("find out who the API server is: %w", err)
	}
	known := &caller{authorities: x509.NewCertPool()}
	if !known.authorities.AppendCertsFromPEM([]byte(config.Data["requestheader-client-ca-file"])) {
		return nil, fmt.Errorf("find out who the API server is: ConfigMap %s/%s has no requestheader-client-ca-file: is aggregation configured?", metav1.NamespaceSystem, authentication)
	}
	if names := config.Data["requestheader-allowed-names"]; names != "" {
		if err := json.Unmarshal([]byte(names), &known.names); err != nil {
			return nil, fmt.Errorf("find out who the API server is: %w", err)
		}
	}
	c.known, c.read = known, time.Now()
	return known, nil
}

func (c *callers) verify(ctx context.Context, state tls.ConnectionState) error {
	known, err := c.get(ctx)
	if err != nil {
		return err
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the caller shows no certificate")
	}
	leaf, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, further := range state.PeerCertificates[1:] {
		intermediates.AddCert(further)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: known.authorities, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("the caller is not the API server: %w", err)
	}
	if len(known.names) > 0 && !slices.Contains(known.names, leaf.Subject.CommonName) {
		return fmt.Errorf("the caller is %q and not the API server", leaf.Subject.CommonName)
	}
	return nil
}

// selfSigned makes a key and a certificate for it.
func selfSigned(host string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
