package network

import (
	"net/netip"
	"testing"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

func TestAnAddressIsWithdrawnWhenTheLastServiceLetsGo(t *testing.T) {
	var o offers
	pod, other := netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("10.244.0.8")
	key := func(name string) catalog.Key { return catalog.Key{Namespace: "default", Name: name} }
	service := func(endpoints ...catalog.Endpoint) *catalog.Service { return &catalog.Service{Endpoints: endpoints} }
	ready := catalog.Endpoint{Addr: pod, Ready: true, Serving: true}

	if _, offered := o.withdrawn(pod); offered {
		t.Error("an address that no service has counts as offered")
	}
	o.set(key("a"), service(ready, catalog.Endpoint{Addr: other, Ready: true}))
	o.set(key("b"), service(ready))
	gone, offered := o.withdrawn(pod)
	if !offered || closed(gone) {
		t.Fatalf("while two services offer it: offered %v, gone %v", offered, closed(gone))
	}
	o.set(key("a"), service(catalog.Endpoint{Addr: other, Ready: true}))
	if closed(gone) {
		t.Error("one service still offers the address")
	}
	o.set(key("b"), service(catalog.Endpoint{Addr: pod, Ready: true, Serving: true, Terminating: true}))
	if !closed(gone) {
		t.Error("no service offers the address, and nobody was told")
	}
	if gone, offered := o.withdrawn(pod); !offered || !closed(gone) {
		t.Error("that the address was offered a moment ago is forgotten")
	}
	gone, _ = o.withdrawn(other)
	if o.set(key("a"), nil); !closed(gone) {
		t.Error("a service that is gone still offers an address")
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
