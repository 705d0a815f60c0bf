package store

import (
	"slices"
	"strings"

	"github.com/google/btree"
)

// tree is the ordered key space. Clones are cheap and share structure.
type tree = btree.BTreeG[*Entry]

// state is everything a reader sees, replaced as a whole by each batch.
type state struct {
	tree     *tree
	revision uint64
}

// View is the key space at one revision. It costs nothing to hold except the
// memory of what has been overwritten since.
type View struct {
	state state
	// undo holds, for keys changed after the view's revision, what they were:
	// nil when they did not exist.
	undo map[string]*Entry
	keys []string // of undo, sorted
}

// View answers the key space at revision, or at the latest one when revision
// is 0. It answers ErrCompacted or ErrFutureRevision when it cannot.
func (s *Store) View(revision uint64) (*View, error) {
	current := s.state.Load()
	if revision == 0 || revision == current.revision {
		return &View{state: *current}, nil
	}
	state, events, err := s.hub.since(revision, s)
	if err != nil {
		return nil, err
	}
	v := &View{state: state}
	v.state.revision = revision
	v.undo = make(map[string]*Entry, len(events))
	for _, ev := range events {
		if _, seen := v.undo[ev.Key]; !seen {
			v.undo[ev.Key] = ev.Prev
			v.keys = append(v.keys, ev.Key)
		}
	}
	slices.Sort(v.keys)
	return v, nil
}

// Revision is the view's revision.
func (v *View) Revision() uint64 { return v.state.revision }

// Get answers the entry of key, or false.
func (v *View) Get(key string) (*Entry, bool) {
	if e, changed := v.undo[key]; changed {
		return e, e != nil
	}
	return v.state.tree.Get(&Entry{Key: key})
}

// Ascend calls fn with the entries below prefix in key order, beginning with
// the first whose key is not less than start, until fn answers false. A prefix
// that ends in a slash (or is empty) covers all keys below it; any other
// covers the one key that equals it.
func (v *View) Ascend(prefix, start string, fn func(*Entry) bool) {
	if !isRange(prefix) {
		if e, ok := v.Get(prefix); ok && prefix >= start {
			fn(e)
		}
		return
	}
	from := max(prefix, start)
	i, _ := slices.BinarySearch(v.keys, from)
	// undone hands out the undone keys that sort before limit.
	undone := func(limit string) bool {
		for ; i < len(v.keys) && v.keys[i] < limit; i++ {
			if e := v.undo[v.keys[i]]; e != nil && strings.HasPrefix(e.Key, prefix) && !fn(e) {
				return false
			}
		}
		return true
	}
	more := true
	v.state.tree.AscendGreaterOrEqual(&Entry{Key: from}, func(e *Entry) bool {
		if !strings.HasPrefix(e.Key, prefix) {
			return false
		}
		if more = undone(e.Key); !more {
			return false
		}
		if _, changed := v.undo[e.Key]; changed {
			return true // handed out by undone, at its old value
		}
		more = fn(e)
		return more
	})
	if more && i < len(v.keys) {
		undone(prefixEnd(prefix))
	}
}

// ListOptions says which part of a prefix to list.
type ListOptions struct {
	// Limit is the most entries to answer; 0 means all.
	Limit int
	// Start is the least key to answer; the continuation of a list that ended
	// with key k is k + "\x00".
	Start string
	// Revision is the exact revision to list at; 0 means the latest.
	Revision uint64
}

// List is a consistent part of the key space.
type List struct {
	Entries  []*Entry
	Revision uint64
	// Remaining is how many more entries there are after the last.
	Remaining int64
}

// List answers the entries below prefix (see View.Ascend) in key order.
func (s *Store) List(prefix string, opts ListOptions) (*List, error) {
	v, err := s.View(opts.Revision)
	if err != nil {
		return nil, err
	}
	return v.List(prefix, opts), nil
}

// List is Store.List on this view; opts.Revision is ignored.
func (v *View) List(prefix string, opts ListOptions) *List {
	l := &List{Revision: v.Revision()}
	v.Ascend(prefix, opts.Start, func(e *Entry) bool {
		if opts.Limit > 0 && len(l.Entries) == opts.Limit {
			l.Remaining++
		} else {
			l.Entries = append(l.Entries, e)
		}
		return true
	})
	return l
}

// Get answers the entry of key (nil when there is none) and the revision at
// which that was so.
func (s *Store) Get(key string) (*Entry, uint64) {
	current := s.state.Load()
	e, _ := current.tree.Get(&Entry{Key: key})
	return e, current.revision
}

// Revision is the latest revision.
func (s *Store) Revision() uint64 { return s.state.Load().revision }

// Stats counts the keys below a prefix.
type Stats struct {
	Keys  int64
	Bytes int64 // of keys and encoded values
}

// Stats counts what is below prefix now.
func (s *Store) Stats(prefix string) Stats {
	var st Stats
	v := View{state: *s.state.Load()}
	v.Ascend(prefix, "", func(e *Entry) bool {
		st.Keys++
		st.Bytes += e.size()
		return true
	})
	return st
}

func isRange(prefix string) bool { return prefix == "" || strings.HasSuffix(prefix, "/") }

// prefixEnd is the least key that sorts after every key below a range prefix.
func prefixEnd(prefix string) string {
	if prefix == "" {
		return "\xff\xff\xff\xff"
	}
	return prefix[:len(prefix)-1] + string(rune('/'+1))
}
