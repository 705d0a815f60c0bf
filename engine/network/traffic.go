package network

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// Workload is what a pod belongs to, such as a Deployment. A pod that belongs to nothing is its own.
type Workload struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
}

// Edge is who talks to whom. The zero Namespace stands for everything outside the cluster. A pod that
// is behind no service is known by its namespace alone.
type Edge struct {
	Namespace string
	Workload
	ToNamespace, ToService string
}

// Traffic is what went over an edge since the node agent started.
type Traffic struct {
	Edge
	nat.Counts
}

// Traffic tells what pods sent to services, to each other and to the outside, and what came from
// there, by nodes' ports. The host's own traffic is not in it (the gateway counts its own), nor are
// DNS and the services that the host answers itself. The kernel keeps a pair of ends for ten
// minutes: who asks less often misses what was idle longer.
func (n *Network) Traffic() ([]Traffic, error) {
	now, err := n.table.Traffic()
	if err != nil {
		return nil, err
	}
	return n.traffic.take(now, n.edge), nil
}

// edge says whose addresses these are.
func (n *Network) edge(f nat.Flow) (Edge, bool) {
	var e Edge
	if f.From.IsValid() {
		le, ok := n.leases.of(f.From)
		if !ok {
			if le, ok = n.traffic.formerly(f.From); !ok {
				return e, false
			}
		}
		e.Namespace, e.Workload = le.Namespace, le.owner()
	}
	if !f.To.IsValid() {
		return e, true
	}
	e.ToNamespace = n.leases.namespaceOf(f.To)
	if s := serviceAt(n.services.Load(), f.To); s != nil {
		e.ToNamespace, e.ToService = s.Namespace, s.Name
	}
	return e, e.ToNamespace != ""
}

// serviceAt is the service of this address, or the one it is an endpoint of: rather one without an
// address of its own, whose clients connect to endpoints.
func serviceAt(cat *catalog.Catalog, ip netip.Addr) *catalog.Service {
	if cat == nil {
		return nil
	}
	rank := func(s *catalog.Service) int {
		switch {
		case s.Spec.ClusterIP == ip.String():
			return 0
		case s.Headless():
			return 1
		}
		return 2
	}
	all := cat.ByIP(ip)
	if len(all) == 0 {
		return nil
	}
	return slices.MinFunc(all, func(a, b *catalog.Service) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.String(), b.String()))
	})
}

func (le *lease) owner() Workload {
	if le.Workload.Name == "" {
		return Workload{"Pod", le.Name}
	}
	return le.Workload
}

// edges adds up what flows carry, which come and go, by the edges they belong to.
type edges struct {
	mu     sync.Mutex // guards the following
	last   map[nat.Flow]reading
	totals map[Edge]nat.Counts
	former map[netip.Addr]lease // of pods that left, until their flows are forgotten
}

// reading is a flow's counts when it was seen last.
type reading struct {
	nat.Counts
	edge   Edge
	missed int // readings since
}

// take adds a reading.
func (s *edges) take(now map[nat.Flow]nat.Counts, edge func(nat.Flow) (Edge, bool)) []Traffic {
	last := make(map[nat.Flow]reading, len(now))
	for f, c := range now {
		if e, ok := edge(f); ok {
			last[f] = reading{Counts: c, edge: e}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What a reading did not find may only have been overlooked, and would be counted twice.
	const patience = 3
	for f, r := range s.last {
		if _, found := last[f]; !found && r.missed < patience {
			r.missed++
			last[f] = r
		}
	}
	totals := make(map[Edge]nat.Counts, len(s.totals))
	for f, r := range last {
		sum, ok := totals[r.edge]
		if !ok {
			sum = s.totals[r.edge]
		}
		if before := s.last[f].Counts; r.missed == 0 {
			sum.Bytes += since(before.Bytes, r.Bytes)
			sum.Accepted += since(before.Accepted, r.Accepted)
			sum.Refused += since(before.Refused, r.Refused)
		}
		totals[r.edge] = sum
	}
	s.last, s.totals = last, totals
	speaking := map[netip.Addr]bool{}
	for f := range now {
		speaking[f.From] = true
	}
	for ip := range s.former {
		if !speaking[ip] {
			delete(s.former, ip)
		}
	}
	out := make([]Traffic, 0, len(totals))
	for e, c := range totals {
		out = append(out, Traffic{e, c})
	}
	return out
}

// since is how much was counted since the last reading, also when counting began anew.
func since(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// leave remembers whose the address was.
func (s *edges) leave(le lease) {
	const most = 4096 // readings are rare, or nobody reads
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.former == nil || len(s.former) >= most {
		s.former = map[netip.Addr]lease{}
	}
	s.former[le.IP] = le
}

func (s *edges) formerly(ip netip.Addr) (lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	le, ok := s.former[ip]
	return le, ok
}
