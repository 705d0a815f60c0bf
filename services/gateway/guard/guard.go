// Package guard decides what a route's policies demand of a request: who sends
// it, whether they may, and how much they had already. AccessPolicy and
// TrafficPolicy objects become [Rules] in the translation; the data plane asks
// them about every request of the route.
//
// Decisions are pure functions of the request, of the clock and of what a
// [Keeper] remembers between requests (counters, verified tokens, keys). They
// never block and do no I/O, so they run on the event loop. What has to wait for
// something, such as keys that are not there yet or a slow password hash, is
// answered with [Elsewhere], and with what to wait for.
//
// It guarantees: nothing a client sends grows memory without bound; a credential
// is compared by its SHA-256 digest or by a signature, so that time tells nothing
// about it; header fields that name a client to a backend are never the client's
// own; what cannot be decided, because a policy is broken or its keys are
// missing, is refused.
//
// Callers may not keep the strings of a [Request]: they may be views of a buffer.
//
// Imported by the gateway's routes, translation, controller and data plane only.
package guard

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Rules are what all policies of one rule of a route demand, merged. They are
// immutable once a Keeper has adopted them; nil demands nothing. The zero value
// of each part demands nothing either.
type Rules struct {
	// Broken names the policy that cannot be applied, or is empty. Requests are
	// refused then, whatever the other parts say.
	Broken string

	Addresses      *Addresses
	Authentication *Authentication
	Authorization  *Authorization
	Limits         []*Limit
	MaxBody        *MaxBody
	Shape          *Shape
	Harden         *Harden
	Compress       *Compress
	Cache          *Cache
	AccessLog      *AccessLog
	Audit          *Audit

	drop map[string]bool // fields of requests that backends do not get
}

// Verdict is the outcome of a decision.
type Verdict int

// The outcomes.
const (
	Admitted  Verdict = iota
	Refused           // with Pass.Refusal
	Elsewhere         // where it may wait: for Pass.Wait, if there is one
)

// Request is what a decision looks at.
type Request struct {
	Method, Host, Path string
	Client             netip.Addr // behind trusted proxies
	Secure             bool
	Length             int64 // of the body; -1 if only its end will tell
	Namespace          string
	Fields             Fields
	Now                time.Time
	// MayWait says that the caller can wait, and bounds bodies of unknown length.
	MayWait bool
	// OnlyAsked says that the gateway answers itself, with a redirect or to a
	// preflight, which must not ask who it is.
	OnlyAsked bool
}

// Fields gives access to the header and the query of a request.
type Fields interface {
	// Field returns the first value of a header field and how many there are.
	Field(name string) (value string, count int)
	// Parameter returns the first value of a query parameter and how many there are.
	Parameter(name string) (value string, count int)
}

// Identity is who sends a request. It is immutable, and shared by requests.
type Identity struct {
	// Method is how they proved it: apiKey, jwt, basic or oidc.
	Method string
	// Client is the name of an API key or user, or a token's subject.
	Client string
	Groups []string
	Claims map[string]any // of tokens
	// Header is what backends are told, in lines that end with CRLF.
	Header []byte
	// Expires is when it must be proved again; zero is never.
	Expires time.Time

	keys *keys // that vouched for it, or nil
}

// Pass is what was decided about one request. It may be used again after Reset.
type Pass struct {
	Identity *Identity // or nil
	Refusal  *Refusal  // why it was refused, or nil
	// Wait waits until it is worth to decide again, or nil.
	Wait Wait
	// Login is what has to be asked for a session, or nil; Session is one that it gave.
	Login   *Login
	Session *Session

	taken    []*Limit // from the first of which a request was taken
	reserved []uint64 // what each of them counted it as
	limited  [2]bool  // whether limits before and after authentication were asked
	standing standing // of the tightest limit
}

// Reset makes the Pass ready for another request and keeps its memory.
func (p *Pass) Reset() {
	clear(p.taken)
	*p = Pass{taken: p.taken[:0], reserved: p.reserved[:0]}
}

// Admit decides about a request. When it returns Elsewhere, call it again with the
// same Pass after waiting, or Return the Pass and let somebody else ask anew.
func (r *Rules) Admit(q *Request, p *Pass) Verdict {
	p.Refusal, p.Wait, p.Login = nil, nil, nil
	if r.Broken != "" {
		return p.refuse(broken(r.Broken))
	}
	if r.Addresses != nil && !r.Addresses.allows(q.Client) {
		return p.refuse(r.Addresses.refusal())
	}
	if r.elsewhere(q) {
		return Elsewhere
	}
	if !p.limited[0] && !r.take(q, p, false) {
		return Refused
	}
	if q.OnlyAsked {
		return Admitted
	}
	if r.Authentication != nil {
		if v := r.Authentication.identify(q, p); v != Admitted {
			return v
		}
	}
	if r.Authorization != nil && !r.Authorization.allows(q, p.Identity) {
		return p.refuse(r.Authorization.refusal(p.Identity))
	}
	if !p.limited[1] && !r.take(q, p, true) {
		return Refused
	}
	if m := r.MaxBody; m != nil && q.Length > m.Bytes {
		return p.refuse(m.refusal())
	}
	if r.Shape != nil {
		if refusal := r.Shape.head(q); refusal != nil {
			return p.refuse(refusal)
		}
	}
	return Admitted
}

// AdmitConnection decides about a connection into which the gateway does not look: 0, or
// the status that a request would be refused with. Only the client's address can be checked:
// where more is demanded than that, nobody gets through. Limits count a connection as a
// request, but for those by header or claim, of which it has none.
func (r *Rules) AdmitConnection(q *Request) (status int) {
	if r.Broken != "" || r.Authentication != nil || r.Authorization != nil || r.Addresses != nil && !r.Addresses.allows(q.Client) {
		return http.StatusForbidden
	}
	for _, l := range r.Limits {
		if l.By == ByHeader || l.By == ByClaim {
			continue
		}
		if _, ok := l.counters.take(l, l.key(q, nil), q.Now); !ok {
			return http.StatusTooManyRequests
		}
	}
	return 0
}

func (p *Pass) refuse(r *Refusal) Verdict {
	p.Refusal = r
	return Refused
}

// Drops tells whether a field of the request is kept from backends: credentials,
// and names that the gateway itself gives to clients. Underscores count as
// hyphens, as they do for backends that read fields from variables.
func (r *Rules) Drops(name []byte) bool {
	if len(r.drop) == 0 || len(name) > maxFieldName {
		return false
	}
	var folded [maxFieldName]byte
	for i, c := range name {
		switch {
		case c == '_':
			c = '-'
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		folded[i] = c
	}
	return r.drop[string(folded[:len(name)])]
}

// maxFieldName bounds the names of fields that policies may name.
const maxFieldName = 64

// ChangesRequest tells whether any field of requests is dropped or added.
func (r *Rules) ChangesRequest() bool { return len(r.drop) > 0 }

// prepare computes what is asked often.
func (r *Rules) prepare() {
	r.drop = map[string]bool{}
	if a := r.Authentication; a != nil {
		if a.Login != nil {
			r.drop["cookie"] = true // to be added again without the login's own
		}
		for _, name := range a.governed() {
			r.drop[strings.ReplaceAll(strings.ToLower(name), "_", "-")] = true
		}
	}
	slices.SortStableFunc(r.Limits, func(a, b *Limit) int { return int(a.Rank()) - int(b.Rank()) })
}

// appendField appends a header line. Control characters, with which a claim could
// end the line, make it disappear.
func appendField(b []byte, name, value string) []byte {
	for i := range len(value) {
		if c := value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return b
		}
	}
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// Parameter returns the first value of a parameter of a raw query, and how many
// there are. Names must be written as they are, not percent-encoded.
func Parameter(query, name string) (value string, count int) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, v, _ := strings.Cut(pair, "=")
		if key != name {
			continue
		}
		if count++; count == 1 {
			value = v
			if decoded, err := url.QueryUnescape(v); err == nil {
				value = decoded
			}
		}
	}
	return value, count
}

// Cookies returns a Cookie field as backends get it: without those of a login.
func (r *Rules) Cookies(header string) string {
	if a := r.Authentication; a != nil && a.Login != nil {
		return a.Login.DropCookies(header)
	}
	return ""
}
