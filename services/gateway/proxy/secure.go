package proxy

import (
	"crypto/tls"
	"fmt"
	"strings"
	"sync"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// certificate chooses the key pair for a client's server name (SNI).
func (p *port) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := p.serving.Load().Certificates(strings.ToLower(hello.ServerName))
	for _, c := range certs {
		if hello.SupportsCertificate(c.Pair) == nil {
			return c.Pair, nil
		}
	}
	if len(certs) > 0 {
		return certs[0].Pair, nil
	}
	return nil, fmt.Errorf("no certificate for server name %q", hello.ServerName)
}

// divert says which connections are not for HTTP.
func (p *port) divert(serverName string) eventloop.Diversion {
	serverName = strings.ToLower(serverName)
	serving := p.serving.Load()
	secure, ok := serving.Secure(serverName)
	switch {
	case !ok:
		return eventloop.Refuse
	case secure == nil || secure.Mode == route.HTTPS:
		return eventloop.NoDiversion
	case serving.Stream(serverName) == nil:
		return eventloop.Refuse
	case secure.Mode == route.Passthrough:
		return eventloop.Encrypted
	}
	return eventloop.Decrypted
}

// configFor is the TLS configuration of the listener for a client's server name.
func (p *port) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	secure, ok := p.serving.Load().Secure(strings.ToLower(hello.ServerName))
	if !ok || secure == nil {
		return nil, nil // the port's own
	}
	return p.secure.of(secure, p.certificate), nil
}

// secureConfigs are the TLS configurations of a port's listeners. One is kept
// for as long as its settings are in use, because its keys let clients resume
// their sessions.
type secureConfigs struct {
	mu   sync.Mutex
	list []secureConfig // guarded by mu; few, since listeners mostly agree
}

type secureConfig struct {
	secure *route.Secure
	config *tls.Config
}

// maxSecureConfigs bounds what is remembered of listeners that are gone.
const maxSecureConfigs = 64

func (s *secureConfigs) of(secure *route.Secure, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i].secure == secure || s.list[i].secure.Equal(secure) {
			s.list[i].secure = secure
			return s.list[i].config
		}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate}
	if secure.Mode == route.HTTPS {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	switch {
	case secure.Lenient:
		c.ClientAuth = tls.RequestClientCert
	case secure.ClientCAs != nil:
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, secure.ClientCAs
	}
	if len(s.list) == maxSecureConfigs {
		s.list = append(s.list[:0], s.list[1:]...)
	}
	s.list = append(s.list, secureConfig{secure, c})
	return c
}
