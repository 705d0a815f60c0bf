package proxy

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// newReverseProxy forwards exchanges that have a pool.
func (s *Server) newReverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        s.rewrite,
		Transport:      s,
		ModifyResponse: modifyResponse,
		ErrorHandler:   s.failed,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BufferPool:     &buffers{},
	}
}

// rewrite makes the request for the backend out of the client's.
func (s *Server) rewrite(p *httputil.ProxyRequest) {
	x := exchangeOf(p.In.Context())
	p.Out.Host = p.In.Host
	if strings.EqualFold(p.Out.Header.Get("Upgrade"), "h2c") {
		// Obsolete (RFC 9113, section 3.1), and a way to hide requests from the gateway.
		p.Out.Header.Del("Upgrade")
		p.Out.Header.Del("Connection")
	}
	p.Out.URL.RawQuery = p.In.URL.RawQuery // byte for byte, even where Go cannot parse it
	s.forwarded(p)
	x.admission.changeRequest(p.Out.Header)
	for _, f := range []*route.Filters{&x.rule.Filters, &x.backend.Filters} {
		if change(p.Out.Header, f.Request); f.Request != nil {
			for _, h := range f.Request.Set {
				if strings.EqualFold(h.Name, "Host") {
					p.Out.Host = h.Value
				}
			}
		}
		if f.Rewrite == nil {
			continue
		}
		if f.Rewrite.Host != "" {
			p.Out.Host = f.Rewrite.Host
		}
		if f.Rewrite.Path != nil {
			path, raw := changePath(f.Rewrite.Path, p.Out.URL.Path, p.Out.URL.EscapedPath(), x.prefix)
			p.Out.URL.Path, p.Out.URL.RawPath = path, raw
		}
	}
}

// forwarded sets X-Forwarded-For, -Host and -Proto. What the client sent of
// them is kept only if it is a trusted proxy itself.
func (s *Server) forwarded(p *httputil.ProxyRequest) {
	peer, err := netip.ParseAddrPort(p.In.RemoteAddr)
	trusted := err == nil && s.trusts(peer)
	if trusted {
		p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
	}
	p.SetXForwarded()
	if !trusted {
		return
	}
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := p.In.Header[name]; len(v) > 0 {
			p.Out.Header[name] = v
		}
	}
}

func (s *Server) trusts(peer netip.AddrPort) bool {
	for _, prefix := range s.cfg.TrustedProxies {
		if prefix.Contains(peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

func modifyResponse(r *http.Response) error {
	x := exchangeOf(r.Request.Context())
	change(r.Header, x.backend.Filters.Response)
	change(r.Header, x.rule.Filters.Response)
	x.admission.changeResponse(r.Header)
	if x.rule.CORS != nil {
		share(r, x.rule.CORS)
	}
	if name, value := x.course.Field(x.attempts.Last(), x.tls); name != "" {
		r.Header.Add(name, value)
	}
	return nil
}

func change(h http.Header, c *route.HeaderChange) {
	if c == nil {
		return
	}
	for _, set := range c.Set {
		h.Set(set.Name, set.Value)
	}
	for _, add := range c.Add {
		h.Add(add.Name, add.Value)
	}
	for _, name := range c.Remove {
		h.Del(name)
	}
}

// changePath returns the new path, decoded and, where it differs, encoded.
func changePath(c *route.PathChange, path, escaped, prefix string) (newPath, newRaw string) {
	if c.Full {
		return c.Value, ""
	}
	if c.Pattern != nil {
		groups := c.Pattern.FindStringSubmatchIndex(path)
		if groups == nil {
			return path, "" // by a rule whose match is another pattern
		}
		newPath = string(c.Pattern.ExpandString(nil, c.Value, path, groups))
		if !strings.HasPrefix(newPath, "/") {
			newPath = "/" + newPath
		}
		return newPath, ""
	}
	join := func(rest string) string {
		joined := strings.TrimSuffix(c.Value, "/") + rest
		if !strings.HasPrefix(joined, "/") {
			return "/" + joined
		}
		return joined
	}
	newPath = join(path[len(prefix):])
	if escaped != path && strings.HasPrefix(escaped, prefix) {
		newRaw = join(escaped[len(prefix):])
	}
	return newPath, newRaw
}

// redirect answers with a Location. Parts that the filter leaves open are the
// request's own.
func (h *handler) redirect(w http.ResponseWriter, r *http.Request, x *exchange) {
	d := x.rule.Redirect
	if d.Location != "" {
		change(w.Header(), x.rule.Filters.Response)
		w.Header().Set("Location", d.Location)
		w.WriteHeader(d.Status)
		return
	}
	scheme := "http"
	if x.port.tls {
		scheme = "https"
	}
	// Without a port the one of the scheme, or else the one the request came
	// to; as clients see it, should the gateway listen elsewhere than asked.
	port := x.port.bound.Port()
	if d.Scheme != "" {
		scheme = d.Scheme
		port = h.server.boundPort(netip.AddrPortFrom(x.port.at.Addr(), map[string]uint16{"http": 80, "https": 443}[scheme]))
	}
	if d.Port != 0 {
		port = uint16(d.Port)
	}
	host := x.host
	if d.Host != "" {
		host = d.Host
	}
	if usual := map[string]uint16{"http": 80, "https": 443}[scheme]; port != usual {
		host = fmt.Sprintf("%s:%d", host, port)
	}
	target := *r.URL
	if d.Path != nil {
		target.Path, target.RawPath = changePath(d.Path, target.Path, target.EscapedPath(), x.prefix)
	}
	target.Scheme, target.Host = scheme, host
	change(w.Header(), x.rule.Filters.Response)
	w.Header().Set("Location", target.String())
	w.WriteHeader(d.Status)
}

// buffers are reused between exchanges.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
