package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// proxy keeps the service addresses in the kernel as the owners of frontends want
// them. An owner is a service or a pod with host ports; when two want the same
// frontend the first keeps it until it lets go.
type proxy struct {
	table  *nat.Table
	offers offers

	mu      sync.Mutex // guards following; held while the kernel is changed
	started bool       // the first Replace is done
	wanted  map[string]map[nat.Frontend]nat.Target
	claims  map[nat.Frontend][]string // owners, the first has it
}

func newProxy(table *nat.Table) *proxy {
	return &proxy{
		table:  table,
		wanted: map[string]map[nat.Frontend]nat.Target{}, claims: map[nat.Frontend][]string{},
	}
}

// start makes the kernel hold exactly what the owners declared until now.
func (p *proxy) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[nat.Frontend]nat.Target{}
	for f, owners := range p.claims {
		all[f] = p.wanted[owners[0]][f]
	}
	if err := p.table.Replace(all); err != nil {
		return err
	}
	p.started = true
	return nil
}

// apply replaces what the owners want, in one transaction. An owner with nil wants
// nothing any more. It returns the UDP frontends whose backends changed.
func (p *proxy) apply(changes map[string]map[nat.Frontend]nat.Target) ([]staleUDP, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := map[nat.Frontend]*nat.Target{}
	for owner, want := range changes {
		have := p.wanted[owner]
		for f := range have {
			p.remember(before, f)
			if _, keep := want[f]; !keep {
				p.disclaim(f, owner)
			}
		}
		for f := range want {
			p.remember(before, f)
			p.claim(f, owner)
		}
		if len(want) == 0 {
			delete(p.wanted, owner)
		} else {
			p.wanted[owner] = want
		}
	}
	diff := map[nat.Frontend]*nat.Target{}
	var stale []staleUDP
	for f, old := range before {
		now := p.present(f)
		if equalTargets(old, now) {
			continue
		}
		diff[f] = now
		if f.Protocol == nat.UDP {
			stale = append(stale, staleUDP{f, now})
		}
	}
	if len(diff) == 0 || !p.started {
		return nil, nil
	}
	return stale, p.table.Apply(diff)
}

func (p *proxy) present(f nat.Frontend) *nat.Target {
	owners := p.claims[f]
	if len(owners) == 0 {
		return nil
	}
	t := p.wanted[owners[0]][f]
	return &t
}

func (p *proxy) remember(before map[nat.Frontend]*nat.Target, f nat.Frontend) {
	if _, ok := before[f]; !ok {
		before[f] = p.present(f)
	}
}

func (p *proxy) claim(f nat.Frontend, owner string) {
	owners := p.claims[f]
	if slices.Contains(owners, owner) {
		return
	}
	if len(owners) > 0 {
		slog.Warn("address is taken: the first owner keeps it", "address", f.String(), "owner", owners[0], "waiting", owner)
	}
	p.claims[f] = append(owners, owner)
}

// has reports whether the owner has the frontend now.
func (p *proxy) has(owner string, f nat.Frontend) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	owners := p.claims[f]
	return len(owners) > 0 && owners[0] == owner
}

func (p *proxy) disclaim(f nat.Frontend, owner string) {
	rest := slices.DeleteFunc(slices.Clone(p.claims[f]), func(o string) bool { return o == owner })
	if len(rest) == 0 {
		delete(p.claims, f)
	} else {
		p.claims[f] = rest
	}
}

func equalTargets(a, b *nat.Target) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Affinity == b.Affinity && slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Sources, b.Sources)
}

// firstSync makes the kernel hold every present service, in one transaction.
func (n *Network) firstSync(c *catalog.Catalog) error {
	if _, err := n.syncServices(c); err != nil {
		return err
	}
	return n.proxy.start()
}

// followServices applies changes until ctx ends, all that are pending at once.
func (n *Network) followServices(ctx context.Context, c *catalog.Catalog) error {
	const retryAfter = time.Second
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.dirty.wake:
		}
		stale, err := n.syncServices(c)
		if err == nil {
			n.flushUDP(stale)
			continue
		}
		for ; err != nil; err = n.proxy.start() {
			slog.Error("service addresses are out of date, trying again", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(retryAfter):
			}
		}
	}
}

func (n *Network) syncServices(c *catalog.Catalog) ([]staleUDP, error) {
	changes := map[string]map[nat.Frontend]nat.Target{}
	keys := n.dirty.take()
	served := make(map[catalog.Key]*catalog.Service, len(keys))
	for _, k := range keys {
		s := c.Get(k)
		served[k] = s
		want, err := frontends(s, n.plan.DNS())
		if err = errors.Join(err, n.withoutTakenPorts(s, want)); err != nil {
			slog.Warn("part of a service is unreachable", "service", k.String(), "err", err)
		}
		changes[serviceOwner(k)] = want
	}
	stale, err := n.proxy.apply(changes)
	if err != nil {
		return nil, fmt.Errorf("change service addresses: %w", err)
	}
	for _, k := range keys {
		n.proxy.offers.set(k, served[k])
		n.balancers.add(k)
	}
	return stale, nil
}

// dirtySet collects keys of services that changed.
type dirtySet struct {
	wake chan struct{}
	mu   sync.Mutex
	keys map[catalog.Key]bool
}

func newDirtySet() *dirtySet {
	return &dirtySet{wake: make(chan struct{}, 1), keys: map[catalog.Key]bool{}}
}

func (d *dirtySet) add(k catalog.Key) {
	d.mu.Lock()
	d.keys[k] = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirtySet) take() []catalog.Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]catalog.Key, 0, len(d.keys))
	for k := range d.keys {
		out = append(out, k)
	}
	clear(d.keys)
	return out
}
