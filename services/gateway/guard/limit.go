package guard

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// By says what a limit counts apart.
type By int

// What limits count apart.
const (
	ByAddress   By = iota // the client's address; of IPv6 its /64 network
	ByHost                // the host that is asked for
	ByNamespace           // the namespace of the route: a tenant
	ByHeader              // the value of a header
	ByRoute               // nothing: all requests share the limit
	ByClient              // who the client has proved to be; of others, the address
	ByClaim               // a claim of the client's token
)

// Limit is how many requests one client, or whatever By says, may send.
type Limit struct {
	// ID keeps the counters over changes of the configuration:
	// Kind/namespace/name/limit.
	ID     string
	Policy string
	Name   string
	By     By
	// Named is the header or the claim.
	Named string

	Requests int64
	// Window is the time in which Requests are given back, evenly. Calendar
	// windows begin anew instead, in UTC.
	Window   time.Duration
	Calendar Calendar
	// Burst is how many requests may come at once; for calendar windows it is all.
	Burst int64

	counters *counters
}

// Calendar is a window of a quota.
type Calendar int

// The windows of quotas.
const (
	NoCalendar Calendar = iota
	Hour
	Day
	Month
)

// Rank puts limits that need no identity before those that do.
func (l *Limit) Rank() int {
	if l.needsIdentity() {
		return 1
	}
	return 0
}

func (l *Limit) needsIdentity() bool { return l.By == ByClient || l.By == ByClaim }

// standing is what a client is told about a limit.
type standing struct {
	limit     *Limit
	remaining int64
	reset     time.Duration // until all is given back
}

// take counts a request against the limits that need an identity, or against the
// others, and tells whether all of them allow it.
func (r *Rules) take(q *Request, p *Pass, identified bool) bool {
	at := 0
	if identified {
		at = 1
	}
	p.limited[at] = true
	for _, l := range r.Limits {
		if l.needsIdentity() != identified {
			continue
		}
		key := l.key(q, p.Identity)
		now, ok := l.counters.take(l, key, q.Now)
		now.limit = l
		if p.standing.limit == nil || now.remaining < p.standing.remaining {
			p.standing = now
		}
		if !ok {
			p.standing = now
			p.refuse(l.refusal(now))
			return false
		}
		p.taken, p.reserved = append(p.taken, l), append(p.reserved, key)
	}
	return true
}

// Return gives back what the request was counted as: somebody else asks anew.
func (p *Pass) Return() {
	for i, l := range p.taken {
		l.counters.giveBack(l, p.reserved[i])
	}
	p.Reset()
}

// key is what the request is counted as.
func (l *Limit) key(q *Request, who *Identity) uint64 {
	h := l.counters.hash
	switch l.By {
	case ByAddress:
		return h(network(q.Client))
	case ByHost:
		return h([]byte(q.Host))
	case ByNamespace:
		return h([]byte(q.Namespace))
	case ByHeader:
		v, _ := q.Fields.Field(l.Named)
		return h([]byte(v))
	case ByClient:
		if who != nil {
			return h([]byte(who.Method + "\x00" + who.Client))
		}
		return h(network(q.Client))
	case ByClaim:
		if who != nil {
			return h([]byte(claimText(who.Claims, l.Named)))
		}
	}
	return h(nil)
}

// network is what of an address one client can hardly change: of IPv6, the /64.
func network(a netip.Addr) []byte {
	a = a.Unmap()
	if a.Is6() {
		a = netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
	}
	b := a.As16()
	return b[:]
}

func (l *Limit) refusal(s standing) *Refusal {
	kind := "rate-limited"
	if l.Calendar != NoCalendar {
		kind = "quota-exceeded"
	}
	return &Refusal{
		Status: http.StatusTooManyRequests, Kind: kind, Policy: l.Policy,
		Detail: fmt.Sprintf("limit %q of %s is used up", l.Name, l.amount()),
		Fields: "Retry-After: " + strconv.FormatInt(seconds(s.reset), 10) + "\r\n",
	}
}

func (l *Limit) amount() string { return fmt.Sprintf("%d requests per %s", l.Requests, l.per()) }

// seconds rounds up, so that a client which waits for them is not too early.
func seconds(d time.Duration) int64 { return int64(math.Ceil(max(d, 0).Seconds())) }

// Stands tells whether there is a limit that the client is told about.
func (p *Pass) Stands() bool { return p.standing.limit != nil }

// AppendStanding appends the RateLimit fields of
// draft-ietf-httpapi-ratelimit-headers-10 for the tightest limit, or nothing.
func (p *Pass) AppendStanding(b []byte) []byte {
	l := p.standing.limit
	if l == nil {
		return b
	}
	b = append(b, "RateLimit-Policy: "...)
	b = strconv.AppendQuote(b, l.Name)
	b = strconv.AppendInt(append(b, ";q="...), l.Requests, 10)
	b = strconv.AppendInt(append(b, ";w="...), seconds(l.length()), 10)
	b = append(b, "\r\nRateLimit: "...)
	b = strconv.AppendQuote(b, l.Name)
	b = strconv.AppendInt(append(b, ";r="...), max(p.standing.remaining, 0), 10)
	b = strconv.AppendInt(append(b, ";t="...), seconds(p.standing.reset), 10)
	return append(b, "\r\n"...)
}

// length of the window, of a month the usual one.
func (l *Limit) length() time.Duration {
	switch l.Calendar {
	case Hour:
		return time.Hour
	case Day:
		return 24 * time.Hour
	case Month:
		return 30 * 24 * time.Hour
	}
	return l.Window
}
