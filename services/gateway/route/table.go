// Package route is the gateway's route table: given a port, a host, a path,
// a method, headers and query parameters it says which rule applies. For
// connections that carry no HTTP, or none that the gateway can read, it says so
// by the port, or by the server name of the TLS handshake.
//
// A Table is immutable once built and may be read by any number of goroutines
// without locks; a change of configuration builds a new Table and swaps the
// pointer. Lookups allocate nothing and cost a few hash look-ups whatever the
// number of routes. The package does no I/O and knows neither Kubernetes
// objects nor net/http, so that every data plane can use it.
//
// Precedence is that of the Gateway API v1 (HTTPRouteRule, HTTPRouteSpec
// hostnames): the most specific listener host, then the most specific route
// host, then an exact path, then a regular expression, then the longest path
// prefix, then a method, then the number of header matches, then of query
// matches, then the order in which rules were added. A host that matches is
// final: rules of less specific hosts are not tried after it.
//
// Imported by the gateway's translation, controller and data plane only.
package route

import (
	"crypto/tls"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

// Table is the whole configuration of the data plane, except for endpoints,
// which change much more often and are kept apart.
type Table struct {
	ports map[netip.AddrPort]*Port
	// guards are the places of the rules, with what policies demand there.
	guards map[*guard.Place]*guard.Rules

	edit *Edited // or nil
}

// Edited is how a Table differs from the one that it was made of.
type Edited struct {
	Dropped []*Rule         // only the other one has
	Added   map[string]bool // routes that have rules which the other one has not
}

// Edited returns nil if all of the Table is new.
func (t *Table) Edited() *Edited { return t.edit }

// Port is what one listening port serves.
type Port struct {
	// Address is the address of the machine that the port is bound at; the zero
	// value stands for the one that all share who ask for none of their own.
	Address netip.Addr
	Number  uint16
	// TLS says whether connections start with a TLS handshake.
	TLS bool
	// Raw says that connections are bytes both ways, for Stream("").
	Raw bool
	// Diverts says that some TLS connections are not HTTP: see Secure.
	Diverts bool

	listeners hostMap[*listener]
	certs     hostMap[[]*Certificate]
	streams   []stream // of a Raw port: the first has its connections
}

// stream is a rule for connections.
type stream struct {
	rule  *Rule
	order Order
}

// bare says that nothing is left of the port.
func (p *Port) bare() bool {
	return !p.Raw && p.listeners.empty() && p.certs.empty() && len(p.streams) == 0
}

// At is the key of the port: its address and number.
func (p *Port) At() netip.AddrPort { return netip.AddrPortFrom(p.Address, p.Number) }

// Certificate is a key pair and the name of the Secret it came from.
type Certificate struct {
	Source string
	Pair   *tls.Certificate
}

// listener holds the virtual hosts behind one listener host name.
type listener struct {
	hostname string
	hosts    hostMap[*virtualHost]
	secure   *Secure           // of a port with TLS, or nil for ordinary HTTPS
	streams  hostMap[[]stream] // by server name, where secure says that there is no HTTP; the first applies
	declared bool              // it is there also without rules
}

// virtualHost holds the rules of one host name, by path.
type virtualHost struct {
	hostname string
	exact    paths
	prefix   paths   // by path without trailing slash; "" is "/"
	regex    []entry // longest expression first
	// depth is the number of slashes of the deepest prefix: no more segments of
	// a request's path need to be looked at.
	depth int
}

type entry struct {
	match Match
	rule  *Rule
	order Order // the last tie-breaker
}

// PathKind says how a path is compared.
type PathKind int

// The kinds of path comparison, in order of precedence.
const (
	Exact PathKind = iota
	Regex
	Prefix
)

func (k PathKind) String() string { return [...]string{"exact", "regex", "prefix"}[k] }

// Match is one condition of a rule; all parts must hold.
type Match struct {
	Kind    PathKind
	Path    string
	Pattern *regexp.Regexp // for Regex; must match the whole path
	Method  string         // or "" for all
	Headers []ValueMatch
	Query   []ValueMatch
}

// ValueMatch compares one header or query parameter.
type ValueMatch struct {
	Name    string
	Value   string
	Pattern *regexp.Regexp // or nil: Value must be equal
}

// Rule is what happens to a request that matched.
type Rule struct {
	// Route names the object the rule came from, as "HTTPRoute/namespace/name":
	// the label in metrics and logs.
	Route string
	// Name is the rule's own name within the route, or empty.
	Name string
	// Guard is where policies demand something of its requests, or nil.
	Guard    *guard.Place
	Filters  Filters
	Redirect *Redirect
	CORS     *CORS // or nil
	Mirrors  []Mirror
	Backends []Backend
	// Balance, Session and Retry come before those of the backends' policies; nil
	// leaves it to them.
	Balance *Balance
	Session *Session
	Retry   *Retry
	// ConnectTimeout, FirstByteTimeout and IdleTimeout come before those of the backends'
	// policies; 0 leaves it to them.
	ConnectTimeout, FirstByteTimeout, IdleTimeout time.Duration
	// RequestTimeout limits the whole exchange, BackendTimeout one attempt at
	// one endpoint; 0 is no limit.
	RequestTimeout time.Duration
	BackendTimeout time.Duration
	// Invalid says why the rule cannot be served, or is empty. Requests that it
	// matches are answered with status 500 rather than by a rule that a part of
	// the configuration, such as a filter, was meant to keep them from.
	Invalid string
}

// ServicePort names the Kubernetes Service port that a backend stands for.
type ServicePort struct {
	Namespace, Name string
	Port            int32
}

// Backend is one weighted destination.
type Backend struct {
	Service ServicePort
	Weight  int32
	Filters Filters
	// HTTP2 makes requests HTTP/2 whatever the Service port says, as gRPC needs it.
	HTTP2 bool
	// TLS is how connections to the backend are secured, or nil for not at all.
	TLS *BackendTLS
	// Invalid says why the reference cannot be used, or is empty. Its share of
	// the requests is answered with status 500, as the Gateway API demands.
	Invalid string
}

// Filters change a request on its way to the backend and the response on its
// way back.
type Filters struct {
	Request, Response *HeaderChange // or nil, as for most rules
	Rewrite           *Rewrite
}

// Any tells whether there is anything to change.
func (f *Filters) Any() bool {
	return f.Request.any() || f.Response.any() || f.Rewrite != nil
}

func (c *HeaderChange) any() bool { return c != nil && len(c.Set)+len(c.Add)+len(c.Remove) > 0 }

// HeaderChange edits headers: first Set, then Add, then Remove.
type HeaderChange struct {
	Set, Add []Header
	Remove   []string
}

// Header is one header field.
type Header struct{ Name, Value string }

// Rewrite changes what the backend sees as host and path.
type Rewrite struct {
	Host string // or ""
	Path *PathChange
}

// PathChange replaces the whole path, or only the prefix that matched.
type PathChange struct {
	Full  bool
	Value string
	// Pattern is what the path is matched with for groups such as ${1} in Value, which is
	// the whole new path then; or nil.
	Pattern *regexp.Regexp
}

// Redirect answers with a Location instead of forwarding.
type Redirect struct {
	Scheme, Host string // or ""
	Port         int32  // or 0
	Path         *PathChange
	Status       int
	// Location is the whole answer, or "" to make it of the above and the request.
	Location string
}

// Attributes gives access to the parts of a request that few rules ask for.
type Attributes interface {
	// Header returns the values of a header joined with commas, and whether it
	// is present.
	Header(name string) (string, bool)
	// Query returns the first value of a query parameter, and whether it is present.
	Query(name string) (string, bool)
}

// Hit is the result of a look-up.
type Hit struct {
	Rule *Rule
	// Prefix is the path prefix that matched, without trailing slash, or "".
	// Only meaningful if the match was by prefix; rewrites replace it.
	Prefix string
}

// At returns the port of an address and number, or nil.
func (t *Table) At(at netip.AddrPort) *Port { return t.ports[at] }

// Lookup finds the rule for a request at a port of the shared address.
func (t *Table) Lookup(port uint16, host, method, path string, attributes Attributes) (Hit, bool) {
	return t.At(netip.AddrPortFrom(netip.Addr{}, port)).Lookup(host, method, path, attributes)
}

// Lookup finds the rule for a request. host is in lower case and without port,
// path starts with a slash and is decoded. A nil Port has no rules.
func (p *Port) Lookup(host, method, path string, attributes Attributes) (Hit, bool) {
	if p == nil {
		return Hit{}, false
	}
	l, ok := p.listeners.find(host)
	if !ok {
		return Hit{}, false
	}
	v, ok := l.hosts.find(host)
	if !ok {
		return Hit{}, false
	}
	return v.lookup(method, path, attributes)
}

// SameListener says whether two host names are served by the same listener.
// A TLS connection opened for one host may carry requests for another only then.
func (p *Port) SameListener(a, b string) bool {
	if p == nil {
		return false
	}
	la, okA := p.listeners.find(a)
	lb, okB := p.listeners.find(b)
	return okA && okB && la == lb
}

// Certificates returns the key pairs for a server name, or nil.
func (p *Port) Certificates(serverName string) []*Certificate {
	if p == nil {
		return nil
	}
	certs, _ := p.certs.find(serverName)
	return certs
}

// EachCertificate visits the key pairs of all ports; one that is used twice is visited twice.
func (t *Table) EachCertificate(visit func(*Certificate)) {
	for _, p := range t.ports {
		p.certs.each(func(_ string, certs []*Certificate) {
			for _, c := range certs {
				visit(c)
			}
		})
	}
}

// Ports lists the ports in ascending order, those of the shared address first.
func (t *Table) Ports() []*Port {
	ports := make([]*Port, 0, len(t.ports))
	for _, p := range t.ports {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b *Port) int { return a.At().Compare(b.At()) })
	return ports
}

func (v *virtualHost) lookup(method, path string, attributes Attributes) (Hit, bool) {
	if e := firstOf(v.exact.get(path), method, attributes); e != nil {
		return Hit{Rule: e.rule}, true
	}
	for i := range v.regex {
		if e := &v.regex[i]; e.match.Pattern.MatchString(path) && e.holds(method, attributes) {
			return Hit{Rule: e.rule}, true
		}
	}
	for prefix := clip(path, v.depth); ; {
		if e := firstOf(v.prefix.get(prefix), method, attributes); e != nil {
			return Hit{Rule: e.rule, Prefix: prefix}, true
		}
		slash := strings.LastIndexByte(prefix, '/')
		if slash < 0 {
			return Hit{}, false
		}
		prefix = prefix[:slash]
	}
}

// clip cuts path after depth segments and removes one trailing slash, so that
// the longest prefix which can be in the table remains.
func clip(path string, depth int) string {
	slashes := 0
	for i := 0; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		if slashes == depth {
			return path[:i]
		}
		slashes++
	}
	return strings.TrimSuffix(path, "/")
}

func firstOf(entries []entry, method string, attributes Attributes) *entry {
	for i := range entries {
		if entries[i].holds(method, attributes) {
			return &entries[i]
		}
	}
	return nil
}

// holds checks everything but the path.
func (e *entry) holds(method string, attributes Attributes) bool {
	if e.match.Method != "" && e.match.Method != method {
		return false
	}
	for i := range e.match.Headers {
		if v, ok := attributes.Header(e.match.Headers[i].Name); !ok || !e.match.Headers[i].holds(v) {
			return false
		}
	}
	for i := range e.match.Query {
		if v, ok := attributes.Query(e.match.Query[i].Name); !ok || !e.match.Query[i].holds(v) {
			return false
		}
	}
	return true
}

func (m *ValueMatch) holds(value string) bool {
	if m.Pattern != nil {
		return m.Pattern.MatchString(value)
	}
	return m.Value == value
}

// Routes returns the names of all routes that have a rule in the table.
func (t *Table) Routes() map[string]bool {
	names := map[string]bool{}
	t.eachRule(func(r *Rule) { names[r.Route] = true })
	return names
}

// Guards returns what policies demand of any rule, each once; in a Table that was
// made of another one it may have some that were that one's.
func (t *Table) Guards() []*guard.Rules {
	all := map[*guard.Rules]bool{}
	for _, r := range t.guards {
		if r != nil {
			all[r] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// Demand puts in force what policies demand of the Table's rules. Tables that were made
// of one another share places, so this is for the latest.
func (t *Table) Demand() {
	for p, r := range t.guards {
		if p.Rules() != r {
			p.Demand(r)
		}
	}
}

func (t *Table) eachRule(visit func(*Rule)) {
	for _, p := range t.ports {
		for _, s := range p.streams {
			visit(s.rule)
		}
		p.listeners.each(func(_ string, l *listener) {
			l.streams.each(func(_ string, list []stream) {
				for _, s := range list {
					visit(s.rule)
				}
			})
			l.hosts.each(func(_ string, v *virtualHost) {
				for _, e := range v.regex {
					visit(e.rule)
				}
				for _, byPath := range []*paths{&v.exact, &v.prefix} {
					byPath.each(func(_ string, entries []entry) {
						for _, e := range entries {
							visit(e.rule)
						}
					})
				}
			})
		})
	}
}
