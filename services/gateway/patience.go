package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// knock is how often an API server that is away is tried again.
const knock = 50 * time.Millisecond

// waitForAPI makes reads wait while nothing listens at the API's address, and
// makes watches that broke look as if they had ended.
//
// client-go backs off from 0.8 s up to 30 s after each failure, which is right
// for a cluster with thousands of clients. Here the API server restarts within
// a second on the same machine, and endpoints must be followed again at once.
func waitForAPI(next http.RoundTripper) http.RoundTripper { return &patientTransport{next} }

type patientTransport struct{ next http.RoundTripper }

func (t *patientTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return t.next.RoundTrip(r)
	}
	for {
		response, err := t.next.RoundTrip(r)
		if err == nil {
			if r.URL.Query().Get("watch") != "" {
				response.Body = endsQuietly{response.Body}
			}
			return response, nil
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			return nil, err
		}
		select {
		case <-r.Context().Done():
			return nil, err
		case <-time.After(knock):
		}
	}
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *patientTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

// endsQuietly turns a broken stream into one that ended: the informer then
// watches again from the last version it has seen.
type endsQuietly struct{ io.ReadCloser }

func (e endsQuietly) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}
