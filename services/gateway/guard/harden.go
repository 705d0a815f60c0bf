package guard

import "strings"

// Harden changes the head of responses so that browsers dare less and attackers
// learn less.
type Harden struct {
	Policy string

	drop          map[string]bool // in lower case
	plain, secure []byte          // what is added, in lines
}

// NewHarden returns what sets some fields, more of them over TLS, and removes others.
func NewHarden(policy string, set, setSecure []ClaimField, remove []string) *Harden {
	h := &Harden{Policy: policy, drop: map[string]bool{}}
	for _, f := range set {
		h.drop[strings.ToLower(f.Name)] = true
		h.plain = appendField(h.plain, f.Name, f.Claim)
	}
	h.secure = h.plain
	for _, f := range setSecure {
		h.drop[strings.ToLower(f.Name)] = true
		h.secure = appendField(h.secure[:len(h.secure):len(h.secure)], f.Name, f.Claim)
	}
	for _, name := range remove {
		h.drop[strings.ToLower(name)] = true
	}
	return h
}

// Drops tells whether a field of the backend's response is not passed on.
func (h *Harden) Drops(name []byte) bool {
	if len(name) > maxFieldName {
		return false
	}
	var folded [maxFieldName]byte
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		folded[i] = c
	}
	return h.drop[string(folded[:len(name)])]
}

// Header is what is added to a response, in lines that end with CRLF.
func (h *Harden) Header(secure bool) []byte {
	if secure {
		return h.secure
	}
	return h.plain
}
