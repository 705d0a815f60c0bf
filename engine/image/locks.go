package image

import (
	"context"
	"sync"
)

// keyedLock is one lock per key that exists only while somebody holds or
// awaits it. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*keyState // guarded by mu
}

type keyState struct {
	token chan struct{} // capacity 1: full while locked
	users int
}

// Lock takes the lock of key, or returns when ctx ends.
func (k *keyedLock) Lock(ctx context.Context, key string) error {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyState{}
	}
	st := k.held[key]
	if st == nil {
		st = &keyState{token: make(chan struct{}, 1)}
		k.held[key] = st
	}
	st.users++
	k.mu.Unlock()
	select {
	case st.token <- struct{}{}:
		return nil
	case <-ctx.Done():
		k.leave(key, st)
		return context.Cause(ctx)
	}
}

// Unlock releases the lock of key, which the caller must hold.
func (k *keyedLock) Unlock(key string) {
	k.mu.Lock()
	st := k.held[key]
	k.mu.Unlock()
	<-st.token
	k.leave(key, st)
}

func (k *keyedLock) leave(key string, st *keyState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if st.users--; st.users == 0 {
		delete(k.held, key)
	}
}

// flights makes callers who want the same thing at the same time share one
// execution. The work is cancelled only when every caller has given up. The
// zero value is ready.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight // guarded by mu
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // guarded by flights.mu
	img     *Image
	err     error

	progress broadcast
}

// do runs work once per key and gives its result to every caller.
func (f *flights) do(ctx context.Context, key string, progress func(Progress), work func(context.Context, func(Progress)) (*Image, error)) (*Image, error) {
	f.mu.Lock()
	fl := f.flying[key]
	if fl == nil {
		if f.flying == nil {
			f.flying = map[string]*flight{}
		}
		workCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &flight{done: make(chan struct{}), cancel: cancel}
		f.flying[key] = fl
		go func() {
			defer cancel()
			fl.img, fl.err = work(workCtx, fl.progress.send)
			f.mu.Lock()
			if f.flying[key] == fl {
				delete(f.flying, key)
			}
			f.mu.Unlock()
			close(fl.done)
		}()
	}
	fl.waiting++
	f.mu.Unlock()
	unsubscribe := fl.progress.subscribe(progress)
	defer unsubscribe()
	select {
	case <-fl.done:
		return fl.img, fl.err
	case <-ctx.Done():
		f.mu.Lock()
		if fl.waiting--; fl.waiting == 0 {
			// Nobody may join a flight that is being cancelled.
			if f.flying[key] == fl {
				delete(f.flying, key)
			}
			fl.cancel()
		}
		f.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

// broadcast passes progress on to whoever listens at the moment.
type broadcast struct {
	mu   sync.Mutex
	subs map[int]func(Progress) // guarded by mu
	next int                    // guarded by mu
}

func (b *broadcast) subscribe(fn func(Progress)) (unsubscribe func()) {
	if fn == nil {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		b.subs = map[int]func(Progress){}
	}
	id := b.next
	b.next++
	b.subs[id] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, id)
	}
}

func (b *broadcast) send(p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fn := range b.subs {
		fn(p)
	}
}
