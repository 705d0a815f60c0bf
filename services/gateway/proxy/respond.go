package proxy

import (
	"net/http"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/gateway/cache"
	"github.com/gantryhq/gantry/services/gateway/compress"
)

// maxCached is how many bytes of responses are kept in memory.
const maxCached = 64 << 20

// providerClient reaches login providers. It follows no redirects: none is due there.
var providerClient = &http.Client{
	Timeout:       15 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// respond forwards a request, or answers it from the cache, and compresses the
// response, as the route's policies say.
func (s *Server) respond(w http.ResponseWriter, r *http.Request, x *exchange) {
	a := x.admission
	if a == nil || a.rules.Compress == nil && a.rules.Cache == nil {
		s.forward.ServeHTTP(w, r)
		return
	}
	private := a.pass.Identity != nil || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != ""
	if c := a.rules.Compress; c != nil {
		compressed := compress.New(w, r, c, private)
		defer compressed.Close() // an error is the client's, who is gone
		w = compressed
	}
	if c := a.rules.Cache; c != nil {
		s.cache.Serve(w, r, cache.Options{
			Key: strings.Join([]string{x.rule.Route, x.rule.Name}, " "), Private: private, MaxObject: c.MaxObject, Kept: a.changeResponse,
		}, s.forward)
		return
	}
	s.forward.ServeHTTP(w, r)
}
