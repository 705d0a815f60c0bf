package upstream

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

var web = route.ServicePort{Namespace: "shop", Name: "web", Port: 80}

// address is the nth endpoint's.
func address(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 8080)
}

// pooled is a pool under test.
type pooled struct {
	*Pool
	t     *testing.T
	pools *Pools
}

// newPooled has n endpoints, the first of which is 1.
func newPooled(t *testing.T, n int, policy *route.UpstreamPolicy) *pooled {
	t.Helper()
	pools := New(Config{Forget: func(*eventloop.Backend) {}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	t.Cleanup(pools.Close)
	p := &pooled{t: t, pools: pools}
	p.has(n, policy)
	p.Pool = pools.Get(web)
	return p
}

// has makes the endpoints 1 to n.
func (p *pooled) has(n int, policy *route.UpstreamPolicy) {
	u := route.Upstream{Service: web, Policy: policy}
	for i := range n {
		u.Endpoints = append(u.Endpoints, address(i+1))
	}
	p.pools.Set([]route.Upstream{u}, nil)
}

// endpoint returns the nth one.
func (p *pooled) endpoint(n int) *Endpoint {
	p.t.Helper()
	for _, e := range p.Endpoints() {
		if e.Address == address(n) {
			return e
		}
	}
	p.t.Fatalf("there is no endpoint %d", n)
	return nil
}

// spread sends requests one after another and counts where they went.
func (p *pooled) spread(requests int, aim *Aim) map[int]int {
	counts := map[int]int{}
	for range requests {
		e := p.Acquire(nil, aim)
		a := e.Address.Addr().As4()
		counts[int(a[2])<<8|int(a[3])]++
		e.Release()
	}
	return counts
}

// fail reports failures of the nth endpoint.
func (p *pooled) fail(n, times int, o Outcome, status int) {
	for range times {
		p.Report(p.endpoint(n), o, status)
	}
}

// is compares where requests go with what is expected, for a sentence.
func (p *pooled) is(what string, want string) {
	p.t.Helper()
	got := fmt.Sprint(p.spread(12, nil))
	if got != want {
		p.t.Errorf("%s: requests go to %s, want %s", what, got, want)
	}
}
