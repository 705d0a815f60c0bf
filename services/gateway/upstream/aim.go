package upstream

import (
	"net/netip"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// Request is what of a request the choice of its endpoint may depend on.
type Request interface {
	route.Attributes
	Client() netip.Addr
	Host() string
	Path() string
}

// KeyOf is the hash of the parts of a request that keys name. It is 0 if the request
// has none of them: then any endpoint will do.
func KeyOf(r Request, keys []route.HashKey) uint64 {
	h, found := hashSeed, false
	for _, k := range keys {
		text, ok := "", true
		switch k.Source {
		case route.ClientAddress:
			text = r.Client().String()
		case route.RequestHost:
			text = r.Host()
		case route.RequestPath:
			text = r.Path()
		case route.HeaderValue:
			text, ok = r.Header(k.Name)
		case route.QueryValue:
			text, ok = r.Query(k.Name)
		case route.CookieValue:
			header, _ := r.Header("Cookie")
			text, ok = CookieValue(header, k.Name)
		}
		found = found || ok
		h = hashText(h, text)
	}
	if !found {
		return 0
	}
	return max(h, 1)
}

// SessionOf is the value of a client's session, or "".
func SessionOf(r Request, rule *route.Session) string {
	if rule.InHeader {
		v, _ := r.Header(rule.Name)
		return v
	}
	header, _ := r.Header("Cookie")
	v, _ := CookieValue(header, rule.Name)
	return v
}

// Course is how one request goes to a pool, where that is not left to the pool.
type Course struct {
	Aim
	session *route.Session // in force, or nil
}

var leastRequest = &route.Balance{}

// Resume finds the client's session under a rule, and the backend it is at; nil if there
// is none.
func (all *Pools) Resume(rule *route.Rule, r Request) (*route.Backend, *Course) {
	value := SessionOf(r, rule.Session)
	if value == "" {
		return nil, nil
	}
	now := time.Now()
	for i := range rule.Backends {
		b := &rule.Backends[i]
		if b.Invalid != "" {
			continue
		}
		if e := all.Get(b.Service).Find(rule.Session, value, now); e != nil {
			return b, &Course{Aim: Aim{Session: e}, session: rule.Session}
		}
	}
	return nil, nil
}

// Course works out how a request of a rule goes to the pool; nil is the default way.
// resumed is what Resume has found, or nil.
func (p *Pool) Course(rule *route.Rule, r Request, resumed *Course) *Course {
	policy := p.Policy()
	session, balance := rule.Session, rule.Balance
	if session == nil {
		session = policy.Session
	}
	if balance == nil && policy.Balance.Method == route.ConsistentHash {
		balance = &policy.Balance
	}
	if session == nil && balance == nil {
		return nil
	}
	c := resumed
	if c == nil {
		c = &Course{session: session}
		if session != nil && rule.Session == nil {
			c.Session = p.Find(session, SessionOf(r, session), time.Now())
		}
	}
	if c.Balance = balance; balance != nil && balance.Method == route.ConsistentHash {
		if c.Key = KeyOf(r, balance.Keys); c.Key == 0 {
			c.Balance = leastRequest
		}
	}
	return c
}

// AimOf is what a course asks for; nil asks for nothing.
func (c *Course) AimOf() *Aim {
	if c == nil {
		return nil
	}
	return &c.Aim
}

// Field is the header field that the client gets with an answer of e, so that it comes
// back there. It needs one when its session begins or moves; otherwise the name is empty.
func (c *Course) Field(e *Endpoint, tls bool) (name, value string) {
	if c == nil || c.session == nil || c.Session == e {
		return "", ""
	}
	value = e.Value(c.session, time.Now())
	if c.session.InHeader {
		return c.session.Name, value
	}
	return "Set-Cookie", string(AppendCookie(nil, c.session, value, tls))
}
