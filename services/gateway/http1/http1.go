// Package http1 reads the heads and the chunked bodies of HTTP/1.1 messages
// (RFC 9112) for a proxy that forwards them byte for byte.
//
// It is strict where leniency lets two parties disagree about where a message
// ends (request smuggling): lines end in CRLF, a name is followed by its colon,
// fields are not folded, and a message has one length. What is well-formed but
// not ordinary (upgrades, HTTP/1.0, odd targets and hosts) it marks in
// [Head.Unusual], so that the caller can leave it to a full implementation.
//
// It guarantees that parsing allocates nothing, looks at every byte once, and that
// the slices in a [Head] are parts of the buffer that was parsed: they are valid
// as long as its content. It does no I/O. Imported by the gateway's data plane only.
package http1

import (
	"bytes"
	"encoding/binary"
	"errors"
)

var (
	// ErrIncomplete means that the head has not arrived whole.
	ErrIncomplete = errors.New("the head of the message is incomplete")
	// ErrMalformed means that the message must be refused and its connection closed.
	ErrMalformed = errors.New("the message is malformed")
)

// Unusual is a set of properties of well-formed messages that few have.
type Unusual uint16

// What can be unusual about a message.
const (
	HTTP10        Unusual = 1 << iota // it is HTTP/1.0
	Upgrade                           // it asks for, or answers with, another protocol
	Expect                            // it waits for an interim answer before its body
	OddTarget                         // not a plain path: absolute, encoded, with dot segments
	OddHost                           // not a plain name or address, or none at all
	NamedFields                       // Connection names fields of this hop
	Trailers                          // it announces or accepts trailers
	Preface                           // it is the beginning of an HTTP/2 connection
	ManyHopFields                     // more fields of this hop than a Head can note
)

// Head is what was read of a request's or a response's head. The zero value is
// ready to use, and to be used again.
type Head struct {
	Method, Target []byte // of a request
	Path           []byte // of a request: the target without its query
	Host           []byte // of a request
	UserAgent      []byte // of a request
	ForwardedFor   []byte // of a request: the last X-Forwarded-For
	ForwardedHost  []byte
	ForwardedProto []byte
	Status         int // of a response

	ContentLength int64 // -1 when there is none
	Chunked       bool
	Close         bool // the sender closes the connection after this message
	KeepAlive     bool // the sender of an HTTP/1.0 message keeps it open
	Unusual       Unusual
	Len           int // of the head, with the empty line

	fields int // offset of the first field
	cuts   [maxCuts]span
	nCuts  int
}

const maxCuts = 12

type span struct{ from, to int }

// Classes of bytes.
const (
	tokenByte  = 1 << iota // RFC 9110, section 5.6.2
	valueByte              // RFC 9110, section 5.5
	targetByte             // visible ASCII
	pathByte               // of a path that means the same encoded and decoded
	hostByte               // of a name or an address, with port
)

// classes are the classes of each byte, so that asking costs one load.
var classes = func() (t [256]uint8) {
	for c := range t {
		b := byte(c)
		alphanumeric := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if alphanumeric || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0 {
			t[c] |= tokenByte
		}
		if b == '\t' || b >= 0x20 && b != 0x7f {
			t[c] |= valueByte
		}
		if b > 0x20 && b < 0x7f {
			t[c] |= targetByte
		}
		if alphanumeric || bytes.IndexByte([]byte("/._~!$&'()*+,;=:@-"), b) >= 0 {
			t[c] |= pathByte
		}
		if alphanumeric || bytes.IndexByte([]byte(".-_:[]"), b) >= 0 {
			t[c] |= hostByte
		}
	}
	return t
}()

func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

// allValue is all(b, valueByte), for eight bytes at a time where it can be. What is
// below n, or zero, has its high bit set after subtracting n, or 1, and had not before.
func allValue(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ ones*0x7f
		if ((x-ones*0x20)&^x|(del-ones)&^del)&highs != 0 && !all(b[:8], valueByte) {
			return false
		}
		b = b[8:]
	}
	return all(b, valueByte)
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// ParseRequest reads the head of a request from the beginning of b.
func ParseRequest(b []byte, h *Head) error {
	*h = Head{ContentLength: -1}
	if len(b) > 0 && b[0] == 'P' && len(b) >= 3 && string(b[:3]) == "PRI" {
		if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
			h.Unusual = Preface
			return nil
		}
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return ErrIncomplete
	}
	if end < 1 || b[end-1] != '\r' {
		return ErrMalformed
	}
	if err := h.requestLine(b[:end-1]); err != nil {
		return err
	}
	h.fields = end + 1
	if err := h.parseFields(b, true); err != nil {
		return err
	}
	if h.Chunked && (h.ContentLength >= 0 || h.Unusual&HTTP10 != 0) {
		return ErrMalformed // RFC 9112, section 6.1
	}
	if len(h.Host) == 0 || !all(h.Host, hostByte) {
		if h.Host == nil && h.Unusual&HTTP10 == 0 {
			return ErrMalformed // RFC 9112, section 3.2
		}
		h.Unusual |= OddHost
	}
	return nil
}

// requestLine reads METHOD SP target SP HTTP/1.x.
func (h *Head) requestLine(line []byte) error {
	const version = " HTTP/1."
	space := bytes.IndexByte(line, ' ')
	if space <= 0 || len(line) < space+1+1+len(version)+1 {
		return ErrMalformed
	}
	h.Method = line[:space]
	if !all(h.Method, tokenByte) {
		return ErrMalformed
	}
	rest := line[space+1:]
	at := len(rest) - len(version) - 1
	if at < 1 || string(rest[at:len(rest)-1]) != version {
		return ErrMalformed
	}
	switch rest[len(rest)-1] {
	case '1':
	case '0':
		h.Unusual |= HTTP10
		h.Close = true
	default:
		return ErrMalformed
	}
	h.Target = rest[:at]
	if !all(h.Target, targetByte) {
		return ErrMalformed
	}
	h.Path = h.Target
	if q := bytes.IndexByte(h.Target, '?'); q >= 0 {
		h.Path = h.Target[:q]
	}
	if !plainPath(h.Path) || string(h.Method) == "CONNECT" || bytes.IndexByte(h.Target, '#') >= 0 {
		h.Unusual |= OddTarget
	}
	return nil
}

// plainPath tells whether everyone understands a path alike.
func plainPath(p []byte) bool {
	if len(p) == 0 || p[0] != '/' {
		return false
	}
	for i, c := range p {
		if classes[c]&pathByte == 0 {
			return false
		}
		if i > 0 && p[i-1] == '/' && (c == '/' || c == '.') {
			return false
		}
	}
	return true
}

// ParseResponse reads the head of a response from the beginning of b.
func ParseResponse(b []byte, h *Head) error {
	*h = Head{ContentLength: -1}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return ErrIncomplete
	}
	// HTTP/1.x SP 3 digits, then SP and a reason or, in spite of RFC 9112, nothing.
	if end < 13 || b[end-1] != '\r' || string(b[:7]) != "HTTP/1." || b[8] != ' ' || (b[12] != ' ' && b[12] != '\r') {
		return ErrMalformed
	}
	switch b[7] {
	case '1':
	case '0':
		h.Unusual |= HTTP10
		h.Close = true
	default:
		return ErrMalformed
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return ErrMalformed
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || !allValue(b[12:end-1]) {
		return ErrMalformed
	}
	h.fields = end + 1
	if err := h.parseFields(b, false); err != nil {
		return err
	}
	if h.Chunked && (h.ContentLength >= 0 || h.Unusual&HTTP10 != 0) {
		return ErrMalformed
	}
	return nil
}

// parseFields reads field lines up to the empty line.
func (h *Head) parseFields(b []byte, request bool) error {
	for at := h.fields; ; {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			return ErrIncomplete
		}
		if end < 1 || b[at+end-1] != '\r' {
			return ErrMalformed
		}
		if end == 1 {
			h.Len = at + 2
			break
		}
		line := b[at : at+end-1]
		colon := 0
		for colon < len(line) && classes[line[colon]]&tokenByte != 0 {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return ErrMalformed // folded lines, spaces before the colon
		}
		value := line[colon+1:]
		if !allValue(value) {
			return ErrMalformed
		}
		cut, err := h.field(line[:colon], trim(value), request)
		if err != nil {
			return err
		}
		if cut {
			h.cut(at, at+end+1)
		}
		at += end + 1
	}
	if h.Unusual&HTTP10 != 0 && h.KeepAlive {
		h.Close = false
	}
	return nil
}

// cut notes a line that is not forwarded.
func (h *Head) cut(from, to int) {
	if h.nCuts > 0 && h.cuts[h.nCuts-1].to == from {
		h.cuts[h.nCuts-1].to = to
		return
	}
	if h.nCuts == maxCuts {
		h.Unusual |= ManyHopFields
		return
	}
	h.cuts[h.nCuts] = span{from, to}
	h.nCuts++
}

// trim removes optional white space.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
