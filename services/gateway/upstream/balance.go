package upstream

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// candidates is how many endpoints are compared for each request.
const candidates = 8

// Aim is what a request asks of the choice of its endpoint. Nil asks for nothing, and
// ConsistentHash needs one.
type Aim struct {
	Balance *route.Balance // or nil for the pool's own
	Key     uint64         // for ConsistentHash
	Session *Endpoint      // where the client's session is, or nil
}

// Acquire picks an endpoint and counts a request in flight there, until Release; nil if
// there is none that was not tried and has room. Once an endpoint was removed and has no
// request in flight, it never gets another one.
func (p *Pool) Acquire(tried []*Endpoint, aim *Aim) *Endpoint {
	if p == nil {
		return nil
	}
	limit := p.limit()
	for {
		e := p.pick(tried, aim)
		if e == nil {
			return nil
		}
		n := e.inFlight.Add(1)
		switch {
		case e.removed.Load(): // since the list was read
			e.inFlight.Add(-1)
		case limit == 0 || n <= limit:
			return e
		default:
			e.inFlight.Add(-1)
			if p.room() == 0 {
				return nil
			}
			tried = append(slices.Clip(tried), e) // for this time
		}
	}
}

func (p *Pool) pick(tried []*Endpoint, aim *Aim) *Endpoint {
	s := p.state.Load()
	turn := int(p.turn.Add(1))
	balance := &s.policy.Balance
	if aim != nil {
		if e := aim.Session; e != nil && slices.Contains(s.open, e) && !slices.Contains(tried, e) {
			return e
		}
		if aim.Balance != nil {
			balance = aim.Balance
		}
		if balance.Method == route.ConsistentHash {
			return byHash(s.open, tried, aim.Key, balance.MaxLoad)
		}
	}
	list := s.open
	if !s.warming.IsZero() {
		list = s.warm()
	}
	for {
		var e *Endpoint
		if balance.Method == route.RoundRobin {
			e = byTurn(list, tried, turn)
		} else {
			e = byLoad(list, tried, turn)
		}
		if e != nil || len(list) == len(s.open) {
			return e
		}
		list = s.open
	}
}

// byTurn returns the next endpoint that was not tried.
func byTurn(list, tried []*Endpoint, turn int) *Endpoint {
	for i := range list {
		if e := list[(turn+i)%len(list)]; !slices.Contains(tried, e) {
			return e
		}
	}
	return nil
}

// byLoad returns the endpoint with the fewest requests in flight among a few, taken
// in turn, that were not tried.
func byLoad(list, tried []*Endpoint, turn int) *Endpoint {
	if len(list) == 0 {
		return nil
	}
	start := turn % len(list)
	var best *Endpoint
	for i, seen := 0, 0; i < len(list) && seen < candidates; i++ {
		e := list[(start+i)%len(list)]
		if slices.Contains(tried, e) {
			continue
		}
		seen++
		if best == nil || e.inFlight.Load() < best.inFlight.Load() {
			best = e
		}
	}
	return best
}

// warm returns the endpoints that this request may go to while some of them start
// slowly: each of those is among them as often as is its share by now.
func (s *state) warm() []*Endpoint {
	now := time.Now()
	if now.After(s.warming) {
		return s.open
	}
	list := make([]*Endpoint, 0, len(s.open))
	for _, e := range s.open {
		if rand.Float64() < share(e.since, now, s.policy.SlowStart) {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return s.open
	}
	return list
}

// share is which part of its requests an endpoint gets that was added at since.
func share(since, now time.Time, window time.Duration) float64 {
	if since.IsZero() || window <= 0 {
		return 1
	}
	const least = 0.1
	return min(1, max(least, float64(now.Sub(since))/float64(window)))
}

// byHash returns the endpoint that ranks first for the key among those that were not
// tried and have room (rendezvous hashing with bounded loads): when an endpoint comes or
// goes, only the keys move that it ranks first for.
func byHash(list, tried []*Endpoint, key uint64, maxLoad int32) *Endpoint {
	if len(list) == 0 {
		return nil
	}
	if maxLoad <= 0 {
		maxLoad = route.DefaultMaxLoad
	}
	total := 1 // the request that is being placed
	for _, e := range list {
		total += int(e.inFlight.Load())
	}
	// Rounded up, so that there is always an endpoint with room.
	n := len(list) * 100
	limit := int32((total*int(maxLoad) + n - 1) / n)
	var first, roomy *Endpoint
	var firstRank, roomyRank uint64
	for _, e := range list {
		if slices.Contains(tried, e) {
			continue
		}
		rank := mix(key ^ e.hash)
		if first == nil || rank > firstRank {
			first, firstRank = e, rank
		}
		if e.inFlight.Load() < limit && (roomy == nil || rank > roomyRank) {
			roomy, roomyRank = e, rank
		}
	}
	if roomy != nil {
		return roomy
	}
	return first
}

const hashSeed uint64 = 0xcbf29ce484222325 // FNV-1a's

// hashText adds text to a hash. It is the same in every process, so that all gateways
// send the same key to the same endpoint.
func hashText[T ~string | ~[]byte](h uint64, text T) uint64 {
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 0x100000001b3
	}
	return (h ^ 0xff) * 0x100000001b3 // keeps "ab","c" and "a","bc" apart
}

// mix spreads the bits of a hash (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
