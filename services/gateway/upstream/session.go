package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// tokenOf is how sessions name an endpoint. It is the same in every gateway, so that
// sessions outlive this one, and tells clients nothing they can use: whatever they
// make up leads to an endpoint that they may be sent to anyhow.
func tokenOf(s route.ServicePort, address netip.AddrPort) string {
	sum := sha256.Sum256([]byte(s.String() + " " + address.String()))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Find returns the endpoint that a session names; nil if the session has ended or the
// endpoint has left.
func (p *Pool) Find(rule *route.Session, value string, now time.Time) (e *Endpoint) {
	token, began, _ := strings.Cut(value, ".")
	for _, other := range p.now().all {
		if other.token == token {
			e = other
			break
		}
	}
	if e == nil || rule.Absolute == 0 {
		return e
	}
	if seconds, err := strconv.ParseInt(began, 36, 64); err != nil || now.Sub(time.Unix(seconds, 0)) > rule.Absolute {
		return nil
	}
	return e
}

// Value is what the client gets for a session that begins now at the endpoint.
func (e *Endpoint) Value(rule *route.Session, now time.Time) string {
	if rule.Absolute == 0 {
		return e.token
	}
	return e.token + "." + strconv.FormatInt(now.Unix(), 36)
}

// AppendCookie appends a Set-Cookie value for a session (RFC 6265).
func AppendCookie(b []byte, rule *route.Session, value string, tls bool) []byte {
	b = append(append(append(b, rule.Name...), '='), value...)
	path := rule.Path
	if path == "" {
		path = "/"
	}
	b = append(append(b, "; Path="...), path...)
	if rule.Domain != "" {
		b = append(append(b, "; Domain="...), rule.Domain...)
	}
	if rule.Permanent && rule.Absolute > 0 {
		b = strconv.AppendInt(append(b, "; Max-Age="...), int64(rule.Absolute/time.Second), 10)
	}
	if rule.SameSite != "" {
		b = append(append(b, "; SameSite="...), rule.SameSite...)
	}
	if tls || rule.Secure {
		b = append(b, "; Secure"...)
	}
	return append(b, "; HttpOnly"...)
}

// CookieValue finds a cookie in a Cookie header (RFC 6265, section 4.2.1).
func CookieValue(header, name string) (string, bool) {
	for part := range strings.SplitSeq(header, ";") {
		n, v, ok := strings.Cut(strings.TrimSpace(part), "=")
		if ok && n == name {
			return strings.Trim(v, `"`), true
		}
	}
	return "", false
}
