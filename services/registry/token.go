package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// tokenPath is where a client that logs in by token gets one. No repository has that path.
const tokenPath = "/v2/token"

// challenge tells a client that is not logged in how to: in the way of distribution's
// token authentication (https://distribution.github.io/distribution/spec/auth/token/),
// which most clients take when they have the choice, or with name and password. What a
// client asks the token for is told as the specification wants it, but a token carries no
// rights: these are asked for at every request.
func challenge(w http.ResponseWriter, req *http.Request) {
	const basic = `Basic realm="gantry registry"`
	at, _ := parsePath(req.URL.Path) // what is at no path needs no scope
	if at.kind == token {
		w.Header().Set("WWW-Authenticate", basic)
		return
	}
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	bearer := fmt.Sprintf("Bearer realm=%q,service=%q", scheme+"://"+req.Host+tokenPath, req.Host)
	if scope := scopeOf(at, req.Method); scope != "" {
		bearer += fmt.Sprintf(",scope=%q", scope)
	}
	if strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") { // RFC 6750, section 3.1: clients then ask for another token
		bearer += `,error="invalid_token"`
	}
	w.Header()["Www-Authenticate"] = []string{bearer, basic}
}

// scopeOf is what a request wants, in the words of the specification.
func scopeOf(at route, method string) string {
	switch {
	case at.kind == catalog:
		return "registry:catalog:*"
	case at.name == "":
		return ""
	case method == http.MethodGet || method == http.MethodHead:
		return "repository:" + at.name + ":pull"
	case method == http.MethodDelete && at.kind != upload:
		return "repository:" + at.name + ":delete"
	}
	return "repository:" + at.name + ":pull,push"
}

// giveToken answers a client that logs in for a token: with GET and its name and password
// as Basic authentication, or with POST and both in a form (OAuth 2.0, RFC 6749 section
// 4.3). As a refresh token it may send a service-account token.
func (c *call) giveToken() error {
	req := c.req
	if req.Method == http.MethodPost {
		req.Body = http.MaxBytesReader(c.w, req.Body, maxForm)
		if err := req.ParseForm(); err != nil {
			return &refusal{status: http.StatusBadRequest, code: "UNSUPPORTED", message: "the form cannot be read: " + err.Error()}
		}
		user, password := req.PostForm.Get("username"), req.PostForm.Get("password")
		if req.PostForm.Get("grant_type") == "refresh_token" {
			user, password = "", req.PostForm.Get("refresh_token")
		}
		req = req.Clone(req.Context())
		req.SetBasicAuth(user, password)
	}
	text, lifetime, err := c.login.Token(req)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Cache-Control", "no-store")
	// A client that is gone needs no answer.
	_ = json.NewEncoder(c.w).Encode(struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
		Scope       string    `json:"scope,omitempty"`
	}{text, text, int(lifetime.Seconds()), time.Now().UTC(), req.Form.Get("scope")})
	return nil
}

// maxForm is more than any service-account token needs.
const maxForm = 64 << 10
