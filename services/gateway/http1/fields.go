package http1

import (
	"bytes"
	"strings"
)

// field takes note of one field and tells whether it ends at this hop.
func (h *Head) field(name, value []byte, request bool) (cut bool, err error) {
	switch len(name) {
	case 2: // TE
		if fold(name, "te") {
			if len(value) > 0 {
				h.Unusual |= Trailers
			}
			return true, nil
		}
	case 4:
		if request && fold(name, "host") {
			if h.Host != nil {
				return false, ErrMalformed
			}
			h.Host = value
		}
	case 6:
		if request && fold(name, "expect") {
			h.Unusual |= Expect
		}
	case 7:
		if fold(name, "upgrade") {
			h.Unusual |= Upgrade
			return true, nil
		}
		if fold(name, "trailer") {
			h.Unusual |= Trailers
			return true, nil
		}
	case 9:
		return request && fold(name, "forwarded"), nil
	case 10:
		if fold(name, "connection") {
			h.connection(value)
			return true, nil
		}
		if fold(name, "keep-alive") {
			return true, nil
		}
		if request && fold(name, "user-agent") {
			h.UserAgent = value
		}
	case 14:
		if fold(name, "content-length") {
			return false, h.contentLength(value)
		}
	case 15, 16, 17:
		return h.longField(name, value, request)
	case 18:
		return fold(name, "proxy-authenticate"), nil
	case 19:
		return fold(name, "proxy-authorization"), nil
	}
	return false, nil
}

func (h *Head) longField(name, value []byte, request bool) (cut bool, err error) {
	switch {
	case fold(name, "transfer-encoding"):
		// Only chunked, once: everything else is a way to disagree.
		if h.Chunked || !fold(value, "chunked") {
			return false, ErrMalformed
		}
		h.Chunked = true
		return false, nil // the body is forwarded with its framing
	case fold(name, "proxy-connection"):
		return true, nil
	case !request:
		return false, nil
	case fold(name, "x-forwarded-for"):
		h.ForwardedFor = value
		return true, nil
	case fold(name, "x-forwarded-host"):
		h.ForwardedHost = value
		return true, nil
	case fold(name, "x-forwarded-proto"):
		h.ForwardedProto = value
		return true, nil
	}
	return false, nil
}

func (h *Head) contentLength(value []byte) error {
	if len(value) == 0 || len(value) > 18 || h.ContentLength >= 0 {
		return ErrMalformed
	}
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' {
			return ErrMalformed
		}
		n = n*10 + int64(c-'0')
	}
	h.ContentLength = n
	return nil
}

// connection reads the options of RFC 9110, section 7.6.1.
func (h *Head) connection(value []byte) {
	for len(value) > 0 {
		option := value
		if comma := bytes.IndexByte(value, ','); comma >= 0 {
			option, value = value[:comma], value[comma+1:]
		} else {
			value = nil
		}
		switch option = trim(option); {
		case len(option) == 0:
		case fold(option, "close"):
			h.Close = true
		case fold(option, "keep-alive"):
			h.KeepAlive = true
		case fold(option, "upgrade"), fold(option, "te"), fold(option, "transfer-encoding"):
			// Their own fields say what is to be known.
		default:
			h.Unusual |= NamedFields
		}
	}
}

// fold compares with a lower-case string.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// AppendFields appends the field lines that go on to the next hop, each with its
// CRLF, without the empty line. b is the buffer that was parsed.
func (h *Head) AppendFields(dst, b []byte) []byte {
	from := h.fields
	for _, cut := range h.cuts[:h.nCuts] {
		dst = append(dst, b[from:cut.from]...)
		from = cut.to
	}
	return append(dst, b[from:h.Len-2]...)
}

// Whole tells whether a response can be sent on byte by byte: it is HTTP/1.1, and
// all its fields go on to the next hop.
func (h *Head) Whole() bool { return h.nCuts == 0 && h.Unusual == 0 }

// AppendFieldsExcept is AppendFields without those fields that drop names.
func (h *Head) AppendFieldsExcept(dst, b []byte, drop func(name []byte) bool) []byte {
	at, cuts := h.fields, h.cuts[:h.nCuts]
	for at < h.Len-2 {
		end := at + bytes.IndexByte(b[at:], '\n') + 1
		switch {
		case len(cuts) > 0 && at >= cuts[0].from && at < cuts[0].to:
		case drop(b[at : at+bytes.IndexByte(b[at:end], ':')]):
		default:
			dst = append(dst, b[at:end]...)
		}
		if at = end; len(cuts) > 0 && at >= cuts[0].to {
			cuts = cuts[1:]
		}
	}
	return dst
}

// Lookup returns the values of a field joined with commas, and whether it is
// there. b is the buffer that was parsed.
func (h *Head) Lookup(b []byte, name string) (string, bool) {
	var values []string
	for rest := b[h.fields : h.Len-2]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end-1]
		rest = rest[end+1:]
		if len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(string(line[:len(name)]), name) {
			values = append(values, string(trim(line[len(name)+1:])))
		}
	}
	return strings.Join(values, ","), len(values) > 0
}

// AppendStatus appends the status line of the response in b, as HTTP/1.1.
func AppendStatus(dst, b []byte) []byte {
	dst = append(dst, "HTTP/1.1"...)
	return append(dst, b[len("HTTP/1.1"):bytes.IndexByte(b, '\n')+1]...)
}

// Find returns the first value of a field and how many there are. b is the buffer
// that was parsed; unlike Lookup it allocates nothing.
func (h *Head) Find(b []byte, name string) (value []byte, count int) {
	for rest := b[h.fields : h.Len-2]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end-1]
		rest = rest[end+1:]
		if len(line) > len(name) && line[len(name)] == ':' && foldAny(line[:len(name)], name) {
			if count++; count == 1 {
				value = trim(line[len(name)+1:])
			}
		}
	}
	return value, count
}

// foldAny compares without regard to case.
func foldAny(a []byte, b string) bool {
	for i, c := range a {
		d := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if d >= 'A' && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}
