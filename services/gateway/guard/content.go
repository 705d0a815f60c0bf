package guard

// Compress says which responses are compressed for clients that accept it.
type Compress struct {
	// Algorithms by preference: zstd, br, gzip.
	Algorithms []string
	// Types of content; "text/*" is every type that begins so.
	Types []string
	// MinSize in bytes below which it does not pay.
	MinSize int64
	// Private also compresses what may hold secrets: the answers to requests with
	// cookies or credentials. If a body has both a secret and text that an attacker
	// chooses, its length then gives the secret away (BREACH).
	Private bool
}

// Cache says that responses are kept as their Cache-Control allows (RFC 9111).
type Cache struct {
	// MaxObject bounds the body of a response that is kept.
	MaxObject int64
}

// elsewhere tells whether a request is served where bodies can be changed, before
// anything of it is counted.
func (r *Rules) elsewhere(q *Request) bool {
	if q.MayWait {
		return false
	}
	if r.MaxBody != nil && q.Length < 0 || r.Shape.HasSchema() && q.Length != 0 || r.Cache != nil {
		return true
	}
	if r.Compress != nil {
		_, accepts := q.Fields.Field("Accept-Encoding")
		return accepts > 0
	}
	return false
}
