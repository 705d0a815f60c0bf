package store

import "sync/atomic"

// forms keeps what readers derive from a decoded value, so that all of them
// share one instead of each making its own.
type forms struct{ first atomic.Pointer[form] }

type form struct {
	kind, value any
	next        *form
}

// get answers the form of a kind, made by derive when there is none. Kinds are
// few, so a list does.
func (f *forms) get(kind any, derive func() (any, error)) (any, error) {
	for {
		first := f.first.Load()
		for have := first; have != nil; have = have.next {
			if have.kind == kind {
				return have.value, nil
			}
		}
		value, err := derive()
		if err != nil {
			return nil, err
		}
		if f.first.CompareAndSwap(first, &form{kind: kind, value: value, next: first}) {
			return value, nil
		}
	}
}

func (f *forms) forget() { f.first.Store(nil) }

// Form answers what derive makes of the decoded value, the same for everyone
// who asks with this comparable kind. It is shared: the caller must not change it.
func (e *Entry) Form(kind any, derive func(object any) (any, error)) (any, error) {
	if e.cold.Load() {
		e.cold.Store(false)
	}
	return e.forms.get(kind, func() (any, error) {
		object, err := e.Object()
		if err != nil {
			return nil, err
		}
		return derive(object)
	})
}

// Form is Entry.Form of what Object answers.
func (ev *Event) Form(kind any, derive func(object any) (any, error)) (any, error) {
	if ev.Entry != nil {
		return ev.Entry.Form(kind, derive)
	}
	return ev.forms.get(kind, func() (any, error) {
		object, err := ev.Object()
		if err != nil {
			return nil, err
		}
		return derive(object)
	})
}
