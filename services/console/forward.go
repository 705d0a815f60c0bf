package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"path"
	"regexp"
	"strings"
)

// forwardPrefix is where the page finds the API.
const forwardPrefix = Prefix + "api/"

// forwardable are the paths of the API's address that the page needs.
var forwardable = []string{"/api", "/apis", "/version", "/openapi", "/prometheus", "/alertmanager", "/loki", "/timeline", "/anomalies", "/audit", "/images"}

// proxied matches subresources in which a workload or a node answers by itself.
var proxied = regexp.MustCompile(`/(proxy|portforward)(/|$)`)

type tokenKey struct{}

// forwarded sends a request on to the API as the person who is logged in.
func (c *Console) forwarded(w http.ResponseWriter, r *http.Request) {
	l, err := c.loggedIn(r)
	if err != nil {
		refuse(w, err)
		return
	}
	to := "/" + strings.TrimPrefix(r.URL.Path, forwardPrefix)
	if !mayForward(to) {
		refuse(w, refusal{http.StatusNotFound, "the console does not lead to " + to})
		return
	}
	ctx, cancel := context.WithDeadline(context.WithValue(r.Context(), tokenKey{}, l.token), l.until)
	defer cancel()
	defer func() {
		// The proxy panics when it cannot go on with an answer. That a reader left, or that the
		// session ended, is no fault to be logged.
		if p := recover(); p != nil && (p != http.ErrAbortHandler || ctx.Err() == nil) {
			panic(p)
		}
	}()
	c.forward.ServeHTTP(w, r.WithContext(ctx))
}

// mayForward lets pass what the page needs, in a path that everyone reads in the same way.
func mayForward(to string) bool {
	if path.Clean(to) != strings.TrimSuffix(to, "/") || proxied.MatchString(to) {
		return false
	}
	for _, prefix := range forwardable {
		if rest, ok := strings.CutPrefix(to, prefix); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// passed are the headers of a request that the API gets; all others stay here: cookies, proofs,
// whom to impersonate.
var passed = map[string]bool{
	"Accept": true, "Content-Type": true, "Accept-Encoding": true, "If-None-Match": true,
	"Upgrade": true, "Connection": true, "Sec-Websocket-Key": true, "Sec-Websocket-Version": true, "Sec-Websocket-Extensions": true,
}

// newForward sends requests whose context has a token.
func (c *Console) newForward(transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			for name := range r.Out.Header {
				if !passed[name] {
					r.Out.Header.Del(name)
				}
			}
			token, _ := r.In.Context().Value(tokenKey{}).(string)
			r.Out.Header.Set("Authorization", "Bearer "+token)
			r.Out.Header.Set("User-Agent", "gantry-console")
			if others, _ := webSocketProtocols(r.In); len(others) > 0 {
				r.Out.Header.Set("Sec-Websocket-Protocol", strings.Join(others, ", "))
			}
			// The path that was checked, which nothing must decode once more.
			r.Out.URL.Path, r.Out.URL.RawPath = strings.TrimSuffix(c.api.Path, "/")+"/"+strings.TrimPrefix(r.In.URL.Path, forwardPrefix), ""
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = c.api.Scheme, c.api.Host, c.api.Host
		},
		FlushInterval: -1, // watches and logs
		ModifyResponse: func(resp *http.Response) error {
			h := resp.Header
			h.Del("Set-Cookie")
			h.Del("Location")
			h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
			h.Set("Cache-Control", "no-store")
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
				c.log.Warn("the console cannot reach the API", "err", err)
			}
			refuse(w, refusal{http.StatusBadGateway, "the API does not answer"})
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // readers that leave
	}
}
