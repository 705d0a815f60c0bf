package guard

import (
	"crypto/sha256"
	"sync"
)

// digest stands for a credential, so that none is kept as it is.
type digest = [sha256.Size]byte

// recent remembers the values of the keys that were asked for lately: at most max
// of them, the older half of which goes when there is no room.
type recent[V any] struct {
	max int

	mu          sync.RWMutex
	young, aged map[digest]V // guarded by mu
}

func newRecent[V any](most int) *recent[V] {
	return &recent[V]{max: most, young: map[digest]V{}}
}

func (r *recent[V]) get(k digest) (v V, ok bool) {
	r.mu.RLock()
	v, ok = r.young[k]
	if !ok {
		v, ok = r.aged[k]
		r.mu.RUnlock()
		if ok {
			r.put(k, v)
		}
		return v, ok
	}
	r.mu.RUnlock()
	return v, ok
}

func (r *recent[V]) put(k digest, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.young) >= r.max/2 {
		r.young, r.aged = map[digest]V{}, r.young
	}
	r.young[k] = v
}

func (r *recent[V]) len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.young) + len(r.aged)
}
