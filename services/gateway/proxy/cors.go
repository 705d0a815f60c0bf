package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// isPreflight tells whether a browser asks for a page of another origin whether
// a request would be allowed (Fetch standard, section 3.2.2).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers in the backend's place. An origin that is not allowed gets an
// answer without permissions, which the browser understands as a no.
func preflight(w http.ResponseWriter, r *http.Request, c *route.CORS) {
	h := w.Header()
	if allowOrigin(h, r, c) {
		asked := r.Header.Get("Access-Control-Request-Method")
		permit(h, "Access-Control-Allow-Methods", c.Methods, asked, c.Credentials)
		permit(h, "Access-Control-Allow-Headers", c.Headers, r.Header.Get("Access-Control-Request-Headers"), c.Credentials)
		expose(h, c)
		if c.MaxAge > 0 {
			h.Set("Access-Control-Max-Age", strconv.Itoa(int(c.MaxAge)))
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// permit lists what is permitted. A browser does not take "*" for a request with
// credentials, so what was asked for is repeated instead.
func permit(h http.Header, name string, permitted []string, asked string, credentials bool) {
	switch {
	case len(permitted) == 0:
	case slices.Contains(permitted, "*") && credentials:
		if asked != "" {
			h.Set(name, asked)
		}
	default:
		h.Set(name, strings.Join(permitted, ", "))
	}
}

// allowOrigin permits the page that asks, if it may use the route.
func allowOrigin(h http.Header, r *http.Request, c *route.CORS) bool {
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !c.Allows(origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

// share permits a page of another origin to read a response. The route's word
// counts, not the backend's.
func share(response *http.Response, c *route.CORS) {
	h := response.Header
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"} {
		h.Del(name)
	}
	if allowOrigin(h, response.Request, c) {
		expose(h, c)
	}
}

func expose(h http.Header, c *route.CORS) {
	if len(c.Expose) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(c.Expose, ", "))
	}
}
