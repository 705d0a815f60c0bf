// Package pki is the certificate authority of one Gantry instance and the key that signs its
// service-account tokens.
//
// It guarantees that both are created once and kept in files of mode 0600, that a new authority
// takes over two years before the old one expires while the old one stays trusted, and that the
// server certificate it hands out is always valid for the names given (it is made in memory and
// never stored). Imported by engine/apiserver only.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	authorityRenewal  = 2 * 365 * 24 * time.Hour // left when a new authority takes over
	leafLifetime      = 365 * 24 * time.Hour
	leafRenewal       = leafLifetime / 3
	backdate          = 5 * time.Minute // for clocks that disagree a little
)

// Authority issues certificates. Its methods are safe for concurrent use.
type Authority struct {
	now     func() time.Time
	key     *ecdsa.PrivateKey
	cert    *x509.Certificate
	bundle  []byte // all trusted authorities, the issuing one first
	pool    *x509.CertPool
	signing *ecdsa.PrivateKey

	mu      sync.Mutex
	serving *tls.Certificate // guarded by mu
	names   []string         // guarded by mu
}

// Open reads the authority in dir and creates what is missing. A nil now means time.Now.
func Open(dir string, now func() time.Time) (*Authority, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate directory: %w", err)
	}
	a := &Authority{now: now}
	var err error
	if a.signing, err = loadOrCreateKey(filepath.Join(dir, "service-account.key")); err != nil {
		return nil, err
	}
	if err := a.loadAuthority(dir); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) loadAuthority(dir string) error {
	// Key and certificates share one file so that no crash can part them; ca.crt is for readers.
	path := filepath.Join(dir, "ca.pem")
	key, certs, err := readAuthority(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	certs = slices.DeleteFunc(certs, func(c *x509.Certificate) bool { return a.now().After(c.NotAfter) })
	if len(certs) == 0 || certs[0].NotAfter.Sub(a.now()) < authorityRenewal {
		var cert *x509.Certificate
		if key, cert, err = newAuthority(a.now()); err != nil {
			return err
		}
		certs = append([]*x509.Certificate{cert}, certs...)
		if err := writeAuthority(path, key, certs); err != nil {
			return err
		}
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return fmt.Errorf("the key in %s does not belong to its first certificate: restore the file from a backup, or remove it to have a new authority made", path)
	}
	a.key, a.cert, a.bundle = key, certs[0], encodeCertificates(certs)
	a.pool = x509.NewCertPool()
	for _, c := range certs {
		a.pool.AddCert(c)
	}
	if err := atomicfile.Write(filepath.Join(dir, "ca.crt"), a.bundle, 0o600); err != nil {
		return fmt.Errorf("write trusted authorities: %w", err)
	}
	return nil
}

// Bundle returns the trusted authorities as PEM.
func (a *Authority) Bundle() []byte { return slices.Clone(a.bundle) }

// Pool returns the trusted authorities.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// SigningKey signs service-account tokens.
func (a *Authority) SigningKey() crypto.Signer { return a.signing }

// ServeAs sets the host names and addresses the server certificate is valid for.
func (a *Authority) ServeAs(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names, a.serving = slices.Clone(names), nil
}

// ServingCertificate is a tls.Config.GetCertificate: it renews the certificate when needed.
func (a *Authority) ServingCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.serving != nil && a.serving.Leaf.NotAfter.Sub(a.now()) > leafRenewal && !a.now().Before(a.serving.Leaf.NotBefore) {
		return a.serving, nil
	}
	serving, err := a.ServerCertificate("gantry-apiserver", a.names)
	if err != nil {
		return nil, err
	}
	a.serving = serving
	return serving, nil
}

// ServerCertificate issues a certificate for a server that is called by names, host names and
// addresses. It should be replaced when a third of its lifetime is left.
func (a *Authority) ServerCertificate(commonName string, names []string) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, cert, err := a.issue(template)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// ClientCertificate issues a certificate and key, both PEM, that authenticate as user in groups,
// and says when they should be replaced.
func (a *Authority) ClientCertificate(user string, groups []string) (cert, key []byte, renew time.Time, err error) {
	k, c, err := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	return encodeCertificates([]*x509.Certificate{c}), pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}),
		c.NotAfter.Add(-leafRenewal), nil
}

// issue completes and signs a template.
func (a *Authority) issue(template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.NotBefore = a.now().Add(-backdate)
	template.NotAfter = a.now().Add(leafLifetime)
	cert, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %q: %w", template.Subject.CommonName, err)
	}
	return key, cert, nil
}

func newAuthority(now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		// The year keeps two authorities apart that are trusted at the same time.
		Subject: pkix.Name{CommonName: fmt.Sprintf("gantry-ca-%d", now.Year())},
		// Valid whatever the clock said when it was made: it may be set back by years.
		NotBefore:             time.Unix(0, 0),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("create certificate authority: %w", err)
	}
	return key, cert, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	raw, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(raw)
	template.SubjectKeyId = id[:20]
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
