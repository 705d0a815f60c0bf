package route

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SecureMode says what is inside the TLS connections of a listener.
type SecureMode int

// The modes of a listener with TLS.
const (
	HTTPS       SecureMode = iota // HTTP, decrypted here
	Terminate                     // bytes, decrypted here
	Passthrough                   // not decrypted here: the backend has the key
)

// Secure is what a listener with TLS does beyond plain HTTPS.
type Secure struct {
	Mode SecureMode
	// ClientCAs are who may have signed clients' certificates, or nil where
	// clients need none.
	ClientCAs *x509.CertPool
	// Lenient asks clients for a certificate but serves them without a valid one.
	Lenient bool
	// Source names where ClientCAs come from, for people.
	Source string
}

// String is empty for plain HTTPS.
func (s *Secure) String() string {
	if s == nil {
		return ""
	}
	text := [...]string{"", " terminate", " passthrough"}[s.Mode]
	if s.ClientCAs != nil {
		text += " clients signed by " + s.Source
	}
	if s.Lenient {
		text += " or not"
	}
	return text
}

// Equal says whether two listeners treat connections in the same way.
func (s *Secure) Equal(o *Secure) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Mode == o.Mode && s.Lenient == o.Lenient && s.ClientCAs.Equal(o.ClientCAs)
}

// Secure returns how the listener for a server name treats TLS connections, nil
// for plain HTTPS, and whether there is such a listener.
func (p *Port) Secure(serverName string) (*Secure, bool) {
	if p == nil {
		return nil, false
	}
	l, ok := p.listeners.find(serverName)
	if !ok {
		return nil, false
	}
	return l.secure, true
}

// Stream returns the rule for a connection without HTTP: of a raw port, or for
// a server name. It is nil if there is none.
func (p *Port) Stream(serverName string) *Rule {
	if p == nil {
		return nil
	}
	if p.Raw {
		return first(p.streams)
	}
	l, ok := p.listeners.find(serverName)
	if !ok {
		return nil
	}
	list, _ := l.streams.find(serverName)
	return first(list)
}

func first(list []stream) *Rule {
	if len(list) == 0 {
		return nil
	}
	return list[0].rule
}

// BackendTLS is how connections to a backend are secured. It is shared by all
// rules that use it and never changes; the same settings in a later Table are
// the same pointer, so that connections can be kept.
type BackendTLS struct {
	// ServerName is what the backend is asked for (SNI) and, without Names and
	// URIs, what its certificate must be for.
	ServerName string
	// Names and URIs are subject alternative names of which the certificate must
	// have at least one.
	Names, URIs []string
	// Roots are who may have signed the certificate, nil for the system's.
	Roots *x509.CertPool
	// Client is the certificate that the backend is shown, or nil.
	Client *Certificate
	// Source names the policy, for people.
	Source string
}

func (b *BackendTLS) String() string {
	text := fmt.Sprintf("TLS to %s by %s", b.ServerName, b.Source)
	if len(b.Names)+len(b.URIs) > 0 {
		text += " as " + strings.Join(slices.Concat(b.Names, b.URIs), " or ")
	}
	if b.Client != nil {
		text += " with certificate " + b.Client.Source
	}
	return text
}

// Config is the TLS configuration of a client that speaks one of the protocols.
func (b *BackendTLS) Config(protocols ...string) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: b.ServerName,
		RootCAs:    b.Roots,
		NextProtos: protocols,
	}
	if b.Client != nil {
		c.Certificates = []tls.Certificate{*b.Client.Pair}
	}
	if len(b.Names)+len(b.URIs) > 0 {
		// crypto/tls can only compare with ServerName, so all is verified here.
		c.InsecureSkipVerify = true
		c.VerifyConnection = b.verify
	}
	return c
}

// verify checks the certificate's chain and its names.
func (b *BackendTLS) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the backend shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	options := x509.VerifyOptions{Roots: b.Roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return err
	}
	for _, uri := range leaf.URIs {
		if slices.Contains(b.URIs, uri.String()) {
			return nil
		}
	}
	for _, name := range b.Names {
		if sameName(leaf, name) {
			return nil
		}
	}
	return fmt.Errorf("the backend's certificate has none of the subject alternative names %s", strings.Join(slices.Concat(b.Names, b.URIs), ", "))
}

// sameName compares a wanted name, which may be a wildcard itself, with those
// of a certificate.
func sameName(leaf *x509.Certificate, name string) bool {
	if !strings.HasPrefix(name, "*.") {
		return leaf.VerifyHostname(name) == nil
	}
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool {
		return strings.EqualFold(n, name) || covers(strings.ToLower(name), strings.ToLower(n))
	})
}
