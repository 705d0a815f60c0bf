package upstream

import (
	"net/http"
	"sync"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// special are the Transports of an endpoint for backends that want another
// protocol than its Service port says, or TLS.
type special struct {
	mu         sync.Mutex
	transports map[specialKey]*http.Transport // guarded by mu
}

type specialKey struct {
	http2 bool
	tls   *route.BackendTLS
}

// maxSpecial bounds what is remembered of policies that are gone.
const maxSpecial = 8

// TransportFor returns what carries requests to the endpoint for a backend, and
// the scheme of their URL.
func (e *Endpoint) TransportFor(b *route.Backend) (*http.Transport, string) {
	if b == nil || b.TLS == nil && (!b.HTTP2 || e.Protocol == route.H2C) {
		return e.Transport, "http"
	}
	scheme := "http"
	if b.TLS != nil {
		scheme = "https"
	}
	key := specialKey{http2: b.HTTP2 || e.Protocol == route.H2C, tls: b.TLS}
	e.special.mu.Lock()
	defer e.special.mu.Unlock()
	if t := e.special.transports[key]; t != nil {
		return t, scheme
	}
	if len(e.special.transports) >= maxSpecial {
		for k, t := range e.special.transports {
			t.CloseIdleConnections()
			delete(e.special.transports, k)
		}
	}
	t := e.Transport.Clone()
	t.Protocols = new(http.Protocols)
	switch {
	case b.TLS == nil:
		t.Protocols.SetUnencryptedHTTP2(true)
	case key.http2:
		t.Protocols.SetHTTP2(true)
		t.TLSClientConfig = b.TLS.Config("h2")
	default:
		t.Protocols.SetHTTP1(true)
		t.TLSClientConfig = b.TLS.Config("http/1.1")
	}
	if e.special.transports == nil {
		e.special.transports = map[specialKey]*http.Transport{}
	}
	e.special.transports[key] = t
	return t, scheme
}

// closeIdle closes the connections that carry no request.
func (e *Endpoint) closeIdle() {
	e.Transport.CloseIdleConnections()
	e.special.mu.Lock()
	defer e.special.mu.Unlock()
	for _, t := range e.special.transports {
		t.CloseIdleConnections()
	}
}
