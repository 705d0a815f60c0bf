package guard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Keeper remembers what must outlive a change of the configuration: the counters of
// limits and the keys of issuers. Its methods may be called concurrently.
type Keeper struct {
	cfg      KeeperConfig
	injected bool // the clock is not the machine's

	mu       sync.Mutex
	counters map[string]*counters           // guarded by mu
	keySets  map[*KeySet]context.CancelFunc // guarded by mu: those that are followed
	saved    map[string]kept                // guarded by mu: of a process before, until a limit claims it
	closed   bool                           // guarded by mu
	evicted  int64                          // guarded by mu: by counters that are gone
	running  sync.WaitGroup
}

// KeeperConfig says how a Keeper reaches the world.
type KeeperConfig struct {
	Fetch Fetch            // nil: key sets with a URL have no keys
	Now   func() time.Time // nil: time.Now
	// Changed is called when the Problem of a key set may have changed, or nil.
	Changed func()
	Log     *slog.Logger // nil: slog.Default()
}

// NewKeeper returns a Keeper that remembers nothing.
func NewKeeper(cfg KeeperConfig) *Keeper {
	cfg.Log = cmp.Or(cfg.Log, slog.Default())
	injected := cfg.Now != nil
	if !injected {
		cfg.Now = time.Now
	}
	return &Keeper{cfg: cfg, injected: injected, counters: map[string]*counters{}, keySets: map[*KeySet]context.CancelFunc{}, saved: map[string]kept{}}
}

// Now is the time that decisions are made at.
func (k *Keeper) Now() time.Time { return k.cfg.Now() }

// At is Now for a caller who has just looked at the clock.
func (k *Keeper) At(now time.Time) time.Time {
	if k.injected {
		return k.cfg.Now()
	}
	return now
}

// Adopt makes rules ready to be asked, and forgets what no rule needs any more. It
// is given all rules of a configuration before the first of them is asked.
func (k *Keeper) Adopt(all []*Rules) {
	k.mu.Lock()
	defer k.mu.Unlock()
	counting, following := map[string]*counters{}, map[*KeySet]context.CancelFunc{}
	for _, r := range all {
		if r.drop == nil {
			r.prepare()
		}
		for _, l := range r.Limits {
			counting[l.ID] = k.count(l)
		}
		if a := r.Authentication; a != nil {
			for _, set := range a.KeySets() {
				following[set] = k.follow(set)
			}
		}
	}
	for id, c := range k.counters {
		if counting[id] != c {
			k.evicted += c.evictions.Load()
		}
	}
	for set, stop := range k.keySets {
		if _, needed := following[set]; !needed {
			stop()
		}
	}
	k.counters, k.keySets = counting, following
}

// count finds the counters of a limit. Those of a limit that is in force are not
// touched.
func (k *Keeper) count(l *Limit) *counters {
	if l.counters != nil {
		return l.counters
	}
	c := k.counters[l.ID]
	if c == nil || !c.fits(l) {
		c = newCounters(l)
		if before, ok := k.saved[l.ID]; ok && l.Calendar != NoCalendar {
			c.restore(before)
			delete(k.saved, l.ID)
		}
		k.counters[l.ID] = c
	}
	l.counters = c
	return c
}

// follow reads a key set from now on.
func (k *Keeper) follow(set *KeySet) context.CancelFunc {
	if stop, already := k.keySets[set]; already {
		return stop
	}
	ctx, stop := context.WithCancel(context.Background())
	if k.cfg.Fetch == nil || k.closed {
		return stop
	}
	var last string
	k.running.Go(func() {
		set.follow(ctx, k.cfg.Fetch, k.cfg.Now, func(err error) {
			now := fmt.Sprint(err)
			if now == last {
				return
			}
			if last = now; err != nil {
				k.cfg.Log.Warn("read keys of tokens", "url", set.URL, "error", err)
			}
			if k.cfg.Changed != nil {
				k.cfg.Changed()
			}
		})
	})
	k.keySets[set] = stop // so that a set that two rules share is followed once
	return stop
}

// KeySets lists those that must be read from somewhere.
func (a *Authentication) KeySets() (sets []*KeySet) {
	for _, t := range a.Tokens {
		if t.Keys.URL != "" {
			sets = append(sets, t.Keys)
		}
	}
	if a.Login != nil && a.Login.Tokens.Keys.URL != "" {
		sets = append(sets, a.Login.Tokens.Keys)
	}
	return sets
}

// Evictions counts the keys of limits that had to make room while they mattered.
func (k *Keeper) Evictions() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.evicted
	for _, c := range k.counters {
		n += c.evictions.Load()
	}
	return n
}

// Save returns what quotas have counted, for another process, and whether that
// has changed since the last time.
func (k *Keeper) Save() (text []byte, changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]kept{}
	for id, c := range k.counters {
		if c.calendar == NoCalendar {
			continue
		}
		changed = c.changed.Swap(false) || changed
		all[id] = c.snapshot(k.cfg.Now())
	}
	for id, before := range k.saved { // limits whose policies have not been read yet
		if _, ok := all[id]; !ok {
			all[id] = before
		}
	}
	text, err = json.Marshal(all)
	return text, changed, err
}

// Load takes over what another process has saved. Call it before Adopt.
func (k *Keeper) Load(text []byte) error {
	saved := map[string]kept{}
	if err := json.Unmarshal(text, &saved); err != nil {
		return fmt.Errorf("read saved quotas: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.saved = saved
	return nil
}

// Close stops reading keys.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	for _, stop := range k.keySets {
		stop()
	}
	k.mu.Unlock()
	k.running.Wait()
}
