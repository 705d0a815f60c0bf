package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func TestAuthoritiesAreAnsweredBeforeAllRoutes(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.apply()
	const path = "/.well-known/acme-challenge/token"
	ask := func() (int, string, string) {
		r, body := g.get("shop.example.com", path)
		return r.StatusCode, r.Header.Get("Backend"), body
	}
	if _, from, _ := ask(); from != "web" {
		t.Error("without a challenge the path is the route's")
	}
	g.Challenges.Offer("token", "token.thumbprint")
	if status, from, body := ask(); status != http.StatusOK || from != "" || body != "token.thumbprint" {
		t.Errorf("answered with %d %q by %q", status, body, from)
	}
	if r, _ := g.get("shop.example.com", path+"-of-somebody-else"); r.Header.Get("Backend") != "web" {
		t.Error("another token is not ours")
	}
	g.Challenges.Withdraw("token")
	if _, from, body := ask(); from != "web" || strings.Contains(body, "thumbprint") {
		t.Errorf("after it was withdrawn answered with %q", body)
	}
}
