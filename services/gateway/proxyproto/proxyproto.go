// Package proxyproto reads the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt): the header by
// which a load balancer names the client whose connection it passes on.
//
// Read takes not one byte more than the header. Whatever the peer sends, it
// reads no more than MaxHeader bytes, and returns an error for everything that
// is not a well-formed header.
//
// Imported by the gateway's data plane only.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// MaxHeader bounds a header of version 2, with all its extensions.
const MaxHeader = 4 << 10

// maxLine is the longest line of version 1, with its end (section 2.1).
const maxLine = 107

// signature begins a header of version 2 (section 2.2).
const signature = "\r\n\r\n\x00\r\nQUIT\n"

var errForm = errors.New("not a header of the PROXY protocol")

// Read reads a header and returns the client's address. It is not valid when
// the proxy speaks for itself (LOCAL, UNKNOWN), as in health checks: then the
// peer's own address counts.
func Read(r io.Reader) (netip.AddrPort, error) {
	head := make([]byte, len(signature))
	if _, err := io.ReadFull(r, head); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	switch {
	case string(head) == signature:
		return readBinary(r)
	case bytes.HasPrefix(head, []byte("PROXY ")):
		return readLine(r, head)
	}
	return netip.AddrPort{}, errForm
}

// readLine reads the rest of a header of version 1.
func readLine(r io.Reader, line []byte) (netip.AddrPort, error) {
	var next [1]byte
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxLine {
			return netip.AddrPort{}, errForm
		}
		if _, err := io.ReadFull(r, next[:]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
		}
		line = append(line, next[0])
	}
	fields := strings.Split(strings.TrimSuffix(string(line), "\r\n"), " ")
	if len(fields) >= 2 && fields[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(fields) != 6 {
		return netip.AddrPort{}, errForm
	}
	address, err := netip.ParseAddr(fields[2])
	port, errPort := strconv.ParseUint(fields[4], 10, 16)
	four, known := map[string]bool{"TCP4": true, "TCP6": false}[fields[1]]
	if err != nil || errPort != nil || !known || address.Zone() != "" || address.Is4() != four {
		return netip.AddrPort{}, errForm
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(port)), nil
}

// readBinary reads what follows the signature of version 2.
func readBinary(r io.Reader) (netip.AddrPort, error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	length := int(binary.BigEndian.Uint16(fixed[2:]))
	if fixed[0]>>4 != 2 || length > MaxHeader {
		return netip.AddrPort{}, errForm
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	switch command := fixed[0] & 0xf; command {
	case 0: // LOCAL
		return netip.AddrPort{}, nil
	case 1: // PROXY
	default:
		return netip.AddrPort{}, errForm
	}
	switch family := fixed[1]; {
	case family == 0x11 && length >= 12: // TCP over IPv4
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(body[:4])), binary.BigEndian.Uint16(body[8:])), nil
	case family == 0x21 && length >= 36: // TCP over IPv6
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(body[:16])).Unmap(), binary.BigEndian.Uint16(body[32:])), nil
	case family == 0: // not told
		return netip.AddrPort{}, nil
	}
	return netip.AddrPort{}, errForm
}
