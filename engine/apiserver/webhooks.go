package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// localWebhooks calls webhooks without a connection when this process answers for their Service
// ([Server.ServeExtension]). Everything else about them is as for others: configuration,
// selectors, timeouts, failure policies.
type localWebhooks struct {
	webhook.AuthenticationInfoResolver
	s *Server
}

// ClientConfigForService implements webhook.AuthenticationInfoResolver. Upstream keeps the client
// that it makes of the answer, so each call looks who answers now.
func (l localWebhooks) ClientConfigForService(name, namespace string, port int) (*rest.Config, error) {
	config, err := l.AuthenticationInfoResolver.ClientConfigForService(name, namespace, port)
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.Wrap(func(network http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if h := l.s.extensions.answering(namespace, name); h != nil {
				return inproc.New(h, &user.DefaultInfo{Name: user.APIServerUser}).RoundTrip(r)
			}
			return network.RoundTrip(r)
		})
	})
	return config, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
