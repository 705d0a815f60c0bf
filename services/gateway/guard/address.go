package guard

import (
	"net/http"
	"net/netip"
	"strings"
)

// Addresses says which clients may come in at all.
type Addresses struct {
	Policy string
	// Deny comes before Allow. Without Allow, all that are not denied may.
	Allow, Deny []netip.Prefix
}

// allows tells whether a client may come in.
func (a *Addresses) allows(client netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		for _, p := range list {
			if p.Contains(client) {
				return true
			}
		}
		return false
	}
	client = client.Unmap()
	return client.IsValid() && !in(a.Deny) && (len(a.Allow) == 0 || in(a.Allow))
}

func (a *Addresses) refusal() *Refusal {
	return &Refusal{Status: http.StatusForbidden, Kind: "address-denied", Policy: a.Policy, Detail: "requests from this address are not accepted here"}
}

// RealClient is the address of the client behind trusted proxies: the last one in
// X-Forwarded-For that is not itself trusted. What stands before it may be anything
// that the client made up. forwarded holds the fields joined with commas.
func RealClient(peer netip.Addr, trusted []netip.Prefix, forwarded string) netip.Addr {
	client := peer.Unmap()
	for trusts(trusted, client) && forwarded != "" {
		last := forwarded
		if comma := strings.LastIndexByte(forwarded, ','); comma >= 0 {
			forwarded, last = forwarded[:comma], forwarded[comma+1:]
		} else {
			forwarded = ""
		}
		last = strings.TrimSpace(last)
		next, err := netip.ParseAddr(last)
		if err != nil {
			if withPort, err2 := netip.ParseAddrPort(last); err2 == nil {
				next = withPort.Addr()
			} else {
				return client // no address: the proxy that wrote it is all we know
			}
		}
		client = next.Unmap().WithZone("")
	}
	return client
}

func trusts(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
