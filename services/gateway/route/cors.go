package route

import (
	"slices"
	"strings"
)

// CORS says which pages of other origins may use a route (Fetch standard,
// section 3.2; Gateway API, HTTPCORSFilter).
type CORS struct {
	Origins     []string // "*", or scheme://host[:port] with "*" in the host
	Credentials bool
	Methods     []string // or "*"
	Headers     []string // or "*"
	Expose      []string
	MaxAge      int32 // seconds that a browser may remember the answer
}

// Allows tells whether pages of an origin may use the route.
func (c *CORS) Allows(origin string) bool {
	if origin == "" {
		return false
	}
	return slices.ContainsFunc(c.Origins, func(pattern string) bool { return pattern == "*" || originMatches(pattern, origin) })
}

// originMatches compares an origin with a pattern whose one "*" stands for any
// labels. A port that is the scheme's own may be written or not.
func originMatches(pattern, origin string) bool {
	pattern, origin = plainOrigin(pattern), plainOrigin(origin)
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == origin
	}
	return len(origin) > len(before)+len(after) && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after) &&
		!strings.ContainsAny(origin[len(before):len(origin)-len(after)], "/:")
}

func plainOrigin(o string) string {
	o = strings.ToLower(o)
	if strings.HasPrefix(o, "http://") {
		return strings.TrimSuffix(o, ":80")
	}
	return strings.TrimSuffix(o, ":443")
}

// Mirror is a Service port that gets a copy of a share of the requests.
type Mirror struct {
	Service ServicePort
	TLS     *BackendTLS // or nil
	// Share of every Outof requests are copied.
	Share, Outof int32
	// Invalid says why the reference cannot be used, or is empty: nothing is
	// copied then, and the requests themselves go on.
	Invalid string
}
