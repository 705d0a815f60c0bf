package store

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// Codec turns a value's bytes into its object and back into a revision-stamped
// one. Both functions must be safe for concurrent use.
type Codec struct {
	// Decode makes the object of data and stamps it with revision.
	Decode func(key string, data []byte, revision uint64) (any, error)
	// Stamp sets the revision of an object that a writer handed over, before
	// anybody else sees it. It may be nil.
	Stamp func(object any, revision uint64) error
}

// Value is what a write stores under a key.
type Value struct {
	// Data is the encoded object, without its revision. The store keeps it;
	// the caller must not change it any more.
	Data []byte
	// Object is the decoded form of Data, or nil to have it decoded on demand.
	// The caller gives it away: the store stamps it and shares it with readers.
	Object any
	// TTL, when positive, deletes the key that long after this write.
	TTL time.Duration
	// Relaxed makes the write visible before it is on disk. For state that its
	// owner rebuilds after a crash.
	Relaxed bool
}

// Entry is one key at one revision. It is immutable.
type Entry struct {
	Key            string
	Data           []byte
	CreateRevision uint64
	ModRevision    uint64
	// Expires is when the key will be deleted, or zero.
	Expires time.Time

	sum    uint32 // checksum of the record on disk
	codecs *codecs
	object atomic.Pointer[any]
	forms  forms
	cold   atomic.Bool // nobody asked for the object since the last look
}

// Object returns the decoded value. It is shared: the caller must not change it.
func (e *Entry) Object() (any, error) {
	if p := e.object.Load(); p != nil {
		if e.cold.Load() {
			e.cold.Store(false)
		}
		return *p, nil
	}
	object, err := e.decode(e.ModRevision)
	if err != nil {
		return nil, err
	}
	if e.object.CompareAndSwap(nil, &object) {
		return object, nil
	}
	if p := e.object.Load(); p != nil {
		return *p, nil
	}
	return object, nil
}

func (e *Entry) decode(revision uint64) (any, error) {
	codec := e.codecs.find(e.Key)
	if codec.Decode == nil {
		return nil, fmt.Errorf("decode %q: no codec is registered for it", e.Key)
	}
	object, err := codec.Decode(e.Key, e.Data, revision)
	if err != nil {
		return nil, fmt.Errorf("decode %q: %w", e.Key, err)
	}
	return object, nil
}

// forget drops the decoded value and its forms, which are made again when asked for.
func (e *Entry) forget() {
	e.object.Store(nil)
	e.forms.forget()
}

// cool forgets the decoded form if nobody has asked for it since the last call.
func (e *Entry) cool() {
	if e.object.Load() != nil && e.cold.Swap(true) {
		e.cold.Store(false)
		e.forget()
	}
}

func (e *Entry) size() int64 { return int64(len(e.Key) + len(e.Data)) }

func lessKey(a, b *Entry) bool { return a.Key < b.Key }

// codecs maps prefixes, each ending in a slash, to codecs. It is replaced as a
// whole when a codec is added.
type codecs struct {
	byPrefix atomic.Pointer[map[string]Codec]
}

func (c *codecs) set(prefix string, codec Codec) {
	for {
		old := c.byPrefix.Load()
		next := map[string]Codec{prefix: codec}
		if old != nil {
			for p, oldCodec := range *old {
				if p != prefix {
					next[p] = oldCodec
				}
			}
		}
		if c.byPrefix.CompareAndSwap(old, &next) {
			return
		}
	}
}

// find answers the codec of the longest registered prefix of key.
func (c *codecs) find(key string) Codec {
	m := c.byPrefix.Load()
	if m == nil {
		return Codec{}
	}
	for end := strings.LastIndexByte(key, '/'); end >= 0; end = strings.LastIndexByte(key[:end], '/') {
		if codec, ok := (*m)[key[:end+1]]; ok {
			return codec
		}
	}
	return (*m)[""]
}
