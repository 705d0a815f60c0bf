package guard

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Counters of one limit hold at most pages × sets × ways keys in fixed memory:
// 65,536 in 1 MiB, of which pages are made when they are first used.
const (
	pages = 128
	sets  = 64
	ways  = 8
)

// maxKeys is how many keys of a limit are told apart.
const maxKeys = pages * sets * ways

// counters count the requests of a limit's keys, which are hashes that clients
// cannot predict. When a set is full, the key that used its limit least makes
// room, so that whoever floods a limit with new keys does not free those who used
// theirs up.
type counters struct {
	by       By
	named    string
	calendar Calendar
	hash     func([]byte) uint64
	seed     [16]byte // of the hash, if it outlives the process

	pages     [pages]atomic.Pointer[page]
	evictions atomic.Int64 // of keys that were not unused
	changed   atomic.Bool  // since the last snapshot
}

type page struct {
	mu   sync.Mutex
	sets [sets][ways]slot // guarded by mu
}

// slot holds one key. Of a rate limit, value is the theoretical arrival time of the
// generic cell rate algorithm in nanoseconds; of a quota, its window's number and
// how many requests it had. Either is less for keys that matter less.
type slot struct {
	key   uint64
	value uint64
}

func newCounters(l *Limit) *counters {
	c := &counters{by: l.By, named: l.Named, calendar: l.Calendar}
	if l.Calendar == NoCalendar {
		seed := maphash.MakeSeed()
		c.hash = func(b []byte) uint64 { return max(maphash.Bytes(seed, b), 1) }
		return c
	}
	rand.Read(c.seed[:])
	c.hash = c.durableHash
	return c
}

// durableHash is the same in the next process.
func (c *counters) durableHash(b []byte) uint64 {
	var buf [16 + 240]byte
	sum := sha256.Sum256(append(append(buf[:0], c.seed[:]...), b...))
	return max(binary.LittleEndian.Uint64(sum[:]), 1)
}

// fits tells whether the counters can go on for a limit as it is now.
func (c *counters) fits(l *Limit) bool {
	return c.by == l.By && c.named == l.Named && c.calendar == l.Calendar
}

// find returns the key's slot, one that is free, or the one that matters least. The
// page is locked.
func (c *counters) find(key uint64, unused uint64) (*page, *slot) {
	at := &c.pages[key%pages]
	p := at.Load()
	if p == nil {
		at.CompareAndSwap(nil, &page{})
		p = at.Load()
	}
	p.mu.Lock()
	set := &p.sets[key/pages%sets]
	least := &set[0]
	for i := range set {
		if set[i].key == key {
			return p, &set[i]
		}
		if set[i].value < least.value {
			least = &set[i]
		}
	}
	if least.value > unused {
		c.evictions.Add(1)
	}
	*least = slot{key: key}
	return p, least
}

// take counts one request, unless that is too many.
func (c *counters) take(l *Limit, key uint64, now time.Time) (standing, bool) {
	if l.Calendar != NoCalendar {
		return c.takeQuota(l, key, now)
	}
	at := uint64(now.UnixNano())
	interval := l.interval()
	most := interval * uint64(max(l.Burst, 1))
	p, s := c.find(key, at)
	defer p.mu.Unlock()
	arrival := max(s.value, at)
	// Clocks that are set back must not lock clients out for longer than a window.
	arrival = min(arrival, at+most)
	if arrival+interval-at > most {
		s.value = arrival
		return standing{reset: time.Duration(arrival + interval - at - most)}, false
	}
	s.value = arrival + interval
	return standing{
		remaining: int64((most - (s.value - at)) / interval),
		reset:     time.Duration(s.value - at),
	}, true
}

func (c *counters) takeQuota(l *Limit, key uint64, now time.Time) (standing, bool) {
	window, ends := l.Calendar.window(now)
	p, s := c.find(key, window<<32)
	defer p.mu.Unlock()
	if s.value>>32 != window {
		s.value = window << 32
	}
	count := int64(s.value & (1<<32 - 1))
	rest := standing{reset: ends.Sub(now)}
	if count >= l.Requests {
		return rest, false
	}
	s.value++
	c.changed.Store(true)
	rest.remaining = l.Requests - count - 1
	return rest, true
}

// interval is after how long one request is given back, in nanoseconds.
func (l *Limit) interval() uint64 { return uint64(max(int64(l.Window)/max(l.Requests, 1), 1)) }

// giveBack undoes take.
func (c *counters) giveBack(l *Limit, key uint64) {
	p := c.pages[key%pages].Load()
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	set := &p.sets[key/pages%sets]
	for i := range set {
		s := &set[i]
		if s.key != key {
			continue
		}
		if l.Calendar == NoCalendar {
			s.value -= min(s.value, l.interval())
		} else if s.value&(1<<32-1) > 0 {
			s.value--
		}
	}
}

// window returns the number of the window that now is in, and its end.
func (c Calendar) window(now time.Time) (number uint64, ends time.Time) {
	now = now.UTC()
	switch c {
	case Hour:
		n := now.Unix() / 3600
		return uint64(n), time.Unix((n+1)*3600, 0)
	case Month:
		y, m, _ := now.Date()
		return uint64(y)*12 + uint64(m), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	default:
		n := now.Unix() / 86400
		return uint64(n), time.Unix((n+1)*86400, 0)
	}
}

// kept is what of a quota outlives the process.
type kept struct {
	Seed []byte   `json:"seed"`
	Keys []uint64 `json:"keys"` // key, value, key, value
}

// snapshot takes what the current window has counted.
func (c *counters) snapshot(now time.Time) kept {
	window, _ := c.calendar.window(now)
	k := kept{Seed: c.seed[:], Keys: []uint64{}}
	for i := range c.pages {
		p := c.pages[i].Load()
		if p == nil {
			continue
		}
		p.mu.Lock()
		for _, set := range p.sets {
			for _, s := range set {
				if s.value>>32 == window && s.key != 0 {
					k.Keys = append(k.Keys, s.key, s.value)
				}
			}
		}
		p.mu.Unlock()
	}
	return k
}

// restore takes over what another process had counted.
func (c *counters) restore(k kept) {
	if len(k.Seed) != len(c.seed) || len(k.Keys)%2 != 0 || len(k.Keys) > 2*maxKeys {
		return
	}
	copy(c.seed[:], k.Seed)
	for i := 0; i < len(k.Keys); i += 2 {
		if k.Keys[i] == 0 {
			continue
		}
		p, s := c.find(k.Keys[i], k.Keys[i+1])
		s.value = max(s.value, k.Keys[i+1])
		p.mu.Unlock()
	}
}
