package registry

import (
	"net"
	"net/netip"
)

// IsLocal says whether a Host header names this machine. A web page that had its
// own name resolved to 127.0.0.1 (DNS rebinding) sends that name.
func IsLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
