package guard

import "math/rand/v2"

// AccessLog says which requests the access log has, and what of them.
type AccessLog struct {
	// Sampled of 10,000 requests are in it.
	Sampled uint32
	// Errors keeps all that were answered with 400 or more.
	Errors bool
	// What is left out.
	OmitClient, OmitPath, OmitAgent bool
}

// Has tells whether a request is in the log.
func (a *AccessLog) Has(status int) bool {
	return a == nil || a.Errors && status >= 400 || a.Sampled >= 10_000 || rand.Uint32N(10_000) < a.Sampled
}

// Audit says which requests the audit log has.
type Audit struct {
	// Writes are requests with methods that change something; Refusals those that
	// the gateway refuses. All has everything.
	All, Writes, Refusals bool
}

// Has tells whether a request is in the log.
func (a *Audit) Has(method string, refused bool) bool {
	if a == nil {
		return false
	}
	safe := method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE"
	return a.All || a.Writes && !safe || a.Refusals && refused
}
