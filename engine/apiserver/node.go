package apiserver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
)

// nodeTransport reaches the node agent.
func (s *Server) nodeTransport() http.RoundTripper {
	return &agentTransport{&http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return s.cfg.DialNode(ctx) },
		DisableCompression: true,
		MaxIdleConns:       4,
	}}
}

// agentTransport reports the end of an answer apart from its last bytes. Upstream's log streaming over
// WebSockets forgets what it reads together with the end, and an agent in the same process is quick
// enough to deliver both at once.
type agentTransport struct{ *http.Transport }

// WrappedRoundTripper lets upstream's proxy find the dialer for upgrades.
func (t *agentTransport) WrappedRoundTripper() http.RoundTripper { return t.Transport }

// RoundTrip implements http.RoundTripper.
func (t *agentTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = endApart{resp.Body}
	}
	return resp, err
}

type endApart struct{ io.ReadCloser }

func (b endApart) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next call finds nothing but the end
	}
	return n, err
}
