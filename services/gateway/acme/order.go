package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/acme"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// obtain orders a certificate and returns the data of its Secret.
func (m *Manager) obtain(ctx context.Context, w Wish) (map[string][]byte, error) {
	client, err := m.account(ctx, w)
	if err != nil {
		return nil, err
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(w.Hosts...))
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	for _, url := range order.AuthzURLs {
		if err := m.authorize(ctx, client, url); err != nil {
			return nil, err
		}
	}
	if _, err = client.WaitOrder(ctx, order.URI); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: w.Hosts}, key)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	chain, _, err := client.CreateOrderCert(ctx, order.FinalizeURL, request, true)
	if err != nil {
		// An authority that needs time need not repeat the address of the order
		// (RFC 8555, section 7.4), without which the library cannot wait for it.
		if chain, err = m.finished(ctx, client, order.URI, err); err != nil {
			return nil, fmt.Errorf("finish order: %w", err)
		}
	}
	var certs []byte
	for _, der := range chain {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	private, err := encodeKey(key)
	return map[string][]byte{corev1.TLSCertKey: certs, corev1.TLSPrivateKeyKey: private}, err
}

// finished waits for the certificate of an order; what went wrong before is the
// error if there is none.
func (m *Manager) finished(ctx context.Context, client *acme.Client, url string, before error) ([][]byte, error) {
	order, err := client.WaitOrder(ctx, url)
	if err != nil || order.CertURL == "" {
		return nil, before
	}
	return client.FetchCert(ctx, order.CertURL, true)
}

// authorize proves that a host is ours.
func (m *Manager) authorize(ctx context.Context, client *acme.Client, url string) error {
	authorization, err := client.GetAuthorization(ctx, url)
	if err != nil {
		return fmt.Errorf("read authorization: %w", err)
	}
	host := authorization.Identifier.Value
	if authorization.Status == acme.StatusValid {
		return nil
	}
	for _, challenge := range authorization.Challenges {
		if challenge.Type != "http-01" {
			continue
		}
		answer, err := client.HTTP01ChallengeResponse(challenge.Token)
		if err != nil {
			return fmt.Errorf("answer challenge for %s: %w", host, err)
		}
		m.cfg.Challenges.Offer(challenge.Token, answer)
		defer m.cfg.Challenges.Withdraw(challenge.Token)
		if _, err := client.Accept(ctx, challenge); err != nil {
			return fmt.Errorf("accept challenge for %s: %w", host, err)
		}
		if _, err := client.WaitAuthorization(ctx, authorization.URI); err != nil {
			return fmt.Errorf("prove that %s is ours (the authority asks for http://%s/.well-known/acme-challenge/ on port 80): %w", host, host, err)
		}
		return nil
	}
	return fmt.Errorf("the authority offers no challenge http-01 for %s", host)
}

// account returns a client of the authority with our account there.
func (m *Manager) account(ctx context.Context, w Wish) (*acme.Client, error) {
	key, err := m.accountKey(ctx, w.Secret.Namespace, w.Directory)
	if err != nil {
		return nil, err
	}
	client := &acme.Client{Key: key, DirectoryURL: w.Directory, HTTPClient: m.cfg.HTTP, UserAgent: "gantry-gateway"}
	var contact []string
	if w.Email != "" {
		contact = []string{"mailto:" + w.Email}
	}
	_, err = client.Register(ctx, &acme.Account{Contact: contact}, acme.AcceptTOS)
	if err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, fmt.Errorf("register account: %w", err)
	}
	return client, nil
}

// accountKey reads the key of a namespace's account at an authority, or makes one.
func (m *Manager) accountKey(ctx context.Context, namespace, directory string) (crypto.Signer, error) {
	name := fmt.Sprintf("gantry-acme-account-%x", sha256.Sum256([]byte(directory)))[:36]
	secrets := m.cfg.Kube.CoreV1().Secrets(namespace)
	present, err := secrets.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		block, _ := pem.Decode(present.Data[corev1.TLSPrivateKeyKey])
		if block == nil {
			return nil, fmt.Errorf("Secret %s/%s holds no account key: delete it for a new account", namespace, name)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, fmt.Errorf("Secret %s/%s holds no account key: delete it for a new account", namespace, name)
		}
		return signer, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read account key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make account key: %w", err)
	}
	private, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	_, err = secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace,
			Labels: map[string]string{managedBy: manager}, Annotations: map[string]string{directoryNote: directory},
		},
		Data: map[string][]byte{corev1.TLSPrivateKeyKey: private},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("keep account key: %w", err)
	}
	return key, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func firstCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}
