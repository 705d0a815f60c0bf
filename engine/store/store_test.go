package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantryhq/gantry/engine/store"
)

func open(t testing.TB, path string, opts store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fresh(t testing.TB) *store.Store {
	return open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{})
}

func put(t testing.TB, s *store.Store, key, data string) *store.Entry {
	t.Helper()
	e, err := s.Update(t.Context(), key, store.Any, store.Value{Data: []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func keys(l *store.List) []string {
	var ks []string
	for _, e := range l.Entries {
		ks = append(ks, e.Key+"="+string(e.Data))
	}
	return ks
}

func wantKeys(t *testing.T, l *store.List, want ...string) {
	t.Helper()
	if got := keys(l); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWriteExpectsARevision(t *testing.T) {
	s, ctx := fresh(t), t.Context()
	a, err := s.Update(ctx, "/r/a", store.Absent, store.Value{Data: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	var conflict *store.ConflictError
	if _, err := s.Update(ctx, "/r/a", store.Absent, store.Value{}); !errors.As(err, &conflict) || conflict.Current != a {
		t.Errorf("creating what exists: %v", err)
	}
	b, err := s.Update(ctx, "/r/a", a.ModRevision, store.Value{Data: []byte("2")})
	if err != nil {
		t.Fatal(err)
	}
	if b.CreateRevision != a.CreateRevision || b.ModRevision <= a.ModRevision {
		t.Errorf("revisions %d/%d after %d/%d", b.CreateRevision, b.ModRevision, a.CreateRevision, a.ModRevision)
	}
	if _, err := s.Update(ctx, "/r/a", a.ModRevision, store.Value{}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("writing over a newer revision: %v", err)
	}
	if _, _, err := s.Delete(ctx, "/r/a", a.ModRevision, store.DeleteOptions{}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("deleting a newer revision: %v", err)
	}
	prev, rev, err := s.Delete(ctx, "/r/a", b.ModRevision, store.DeleteOptions{})
	if err != nil || prev != b || rev <= b.ModRevision {
		t.Errorf("delete answered %v at %d: %v", prev, rev, err)
	}
	if _, _, err := s.Delete(ctx, "/r/a", store.Any, store.DeleteOptions{}); !errors.As(err, &conflict) || conflict.Current != nil {
		t.Errorf("deleting what is gone: %v", err)
	}
	if _, err := s.Update(ctx, "/r/a", b.ModRevision, store.Value{}); !errors.As(err, &conflict) || conflict.Current != nil {
		t.Errorf("updating what is gone: %v", err)
	}
	if _, err := s.Update(ctx, "/r/", store.Any, store.Value{}); err == nil {
		t.Error("a key that ends in a slash was accepted")
	}
}

func TestListGoesInPagesAtOneRevision(t *testing.T) {
	s := fresh(t)
	for _, k := range []string{"/r/pods/a/1", "/r/pods/a/2", "/r/pods/b/1", "/r/podsx/1", "/r/po"} {
		put(t, s, k, "old")
	}
	first, err := s.List("/r/pods/", store.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, first, "/r/pods/a/1=old")
	if first.Remaining != 2 {
		t.Errorf("%d remain, want 2", first.Remaining)
	}
	// What happens between the pages does not show in them.
	put(t, s, "/r/pods/a/2", "new")
	put(t, s, "/r/pods/a/11", "new")
	put(t, s, "/r/pods/c/1", "new")
	if _, _, err := s.Delete(t.Context(), "/r/pods/b/1", store.Any, store.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rest, err := s.List("/r/pods/", store.ListOptions{Start: "/r/pods/a/1\x00", Revision: first.Revision})
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, rest, "/r/pods/a/2=old", "/r/pods/b/1=old")
	now, err := s.List("/r/pods/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, now, "/r/pods/a/1=old", "/r/pods/a/11=new", "/r/pods/a/2=new", "/r/pods/c/1=new")
	one, _ := s.List("/r/po", store.ListOptions{})
	wantKeys(t, one, "/r/po=old")
	if err := s.Compact(s.Revision()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List("/r/pods/", store.ListOptions{Revision: first.Revision}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("page after compaction: %v", err)
	}
	if _, err := s.View(s.Revision() + 1); !errors.Is(err, store.ErrFutureRevision) {
		t.Errorf("view of the future: %v", err)
	}
}

// TestModel runs random operations from several writers and checks that the
// store, its history and its watches all tell the same story.
func TestModel(t *testing.T) {
	s, ctx := fresh(t), t.Context()
	w, err := s.Watch("/r/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var writers sync.WaitGroup
	for n := range 8 {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		writers.Go(func() {
			for range 300 {
				randomWrite(t, ctx, s, rng)
			}
		})
	}
	writers.Wait()
	end := s.Revision()
	model := map[string]string{}
	states := map[uint64]map[string]string{}
	last := uint64(0)
	for last < end {
		events, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if ev.Revision <= last {
				t.Fatalf("revision %d after %d", ev.Revision, last)
			}
			last = ev.Revision
			checkPrev(t, ev, model)
			if ev.Entry == nil {
				delete(model, ev.Key)
			} else {
				model[ev.Key] = string(ev.Entry.Data)
			}
			states[last] = cloneMap(model)
		}
	}
	for rev, want := range states {
		v, err := s.View(rev)
		if err != nil {
			t.Fatal(err)
		}
		sameAsModel(t, v, want)
	}
}

func randomWrite(t *testing.T, ctx context.Context, s *store.Store, rng *rand.Rand) {
	key := fmt.Sprintf("/r/%d/%d", rng.IntN(3), rng.IntN(6))
	relaxed := rng.IntN(2) == 0
	current, _ := s.Get(key)
	expected := store.Any
	if rng.IntN(3) > 0 {
		expected = store.Absent
		if current != nil {
			expected = current.ModRevision
		}
	}
	var err error
	if rng.IntN(4) == 0 {
		_, _, err = s.Delete(ctx, key, expected, store.DeleteOptions{Relaxed: relaxed})
	} else {
		_, err = s.Update(ctx, key, expected, store.Value{Data: fmt.Append(nil, rng.Int()), Relaxed: relaxed})
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
}

func checkPrev(t *testing.T, ev *store.Event, model map[string]string) {
	t.Helper()
	before, existed := model[ev.Key]
	if existed != (ev.Prev != nil) || existed && string(ev.Prev.Data) != before {
		t.Fatalf("event %d of %s: previous value %v, want %q", ev.Revision, ev.Key, ev.Prev, before)
	}
}

func sameAsModel(t *testing.T, v *store.View, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	lastKey := ""
	v.Ascend("/r/", "", func(e *store.Entry) bool {
		if e.Key <= lastKey {
			t.Fatalf("at %d: %s after %s", v.Revision(), e.Key, lastKey)
		}
		lastKey = e.Key
		got[e.Key] = string(e.Data)
		if one, ok := v.Get(e.Key); !ok || one != e {
			t.Fatalf("at %d: Get(%s) differs from the list", v.Revision(), e.Key)
		}
		return true
	})
	if len(got) != len(want) {
		t.Fatalf("at %d: %d keys, want %d", v.Revision(), len(got), len(want))
	}
	for k, d := range want {
		if got[k] != d {
			t.Fatalf("at %d: %s is %q, want %q", v.Revision(), k, got[k], d)
		}
	}
}

func cloneMap(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func TestReopenFindsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.Options{RelaxedDelay: time.Hour})
	a := put(t, s, "/r/a", "durable")
	if _, err := s.Update(t.Context(), "/r/b", store.Absent, store.Value{Data: []byte("relaxed"), Relaxed: true}); err != nil {
		t.Fatal(err)
	}
	rev := s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "/r/c", store.Any, store.Value{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	s = open(t, path, store.Options{})
	if s.Revision() != rev {
		t.Errorf("revision %d after a clean stop at %d", s.Revision(), rev)
	}
	l, _ := s.List("/r/", store.ListOptions{})
	wantKeys(t, l, "/r/a=durable", "/r/b=relaxed")
	if l.Entries[0].ModRevision != a.ModRevision {
		t.Errorf("mod revision %d, was %d", l.Entries[0].ModRevision, a.ModRevision)
	}
	if st := s.Stats("/r/"); st.Keys != 2 || st.Bytes != int64(2*len("/r/a")+len("durable")+len("relaxed")) {
		t.Errorf("stats %+v", st)
	}
	if _, err := s.Watch("/r/", a.ModRevision); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from before the start: %v", err)
	}
	if _, err := s.Watch("/r/", rev); err != nil {
		t.Errorf("watch from the revision of the start: %v", err)
	}
}

type object struct {
	data string
	rev  uint64
}

var codec = store.Codec{
	Decode: func(_ string, data []byte, rev uint64) (any, error) { return &object{string(data), rev}, nil },
	Stamp: func(o any, rev uint64) error {
		o.(*object).rev = rev
		return nil
	},
}

func TestObjectsAreStampedSharedAndDecodedOnDemand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.Options{})
	s.SetCodec("/r/", codec)
	o := &object{data: "x"}
	w, err := s.Watch("/r/a", 0)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Update(t.Context(), "/r/a", store.Absent, store.Value{Data: []byte("x"), Object: o})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Object(); err != nil || got != any(o) || o.rev != e.ModRevision {
		t.Errorf("object %v at %d: %v", got, o.rev, err)
	}
	_, rev, err := s.Delete(t.Context(), "/r/a", store.Any, store.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.Next(t.Context())
	if err != nil || len(events) != 2 {
		t.Fatalf("%d events: %v", len(events), err)
	}
	if gone, err := events[1].Object(); err != nil || gone.(*object).rev != rev || o.rev == rev {
		t.Errorf("deleted object %v, want revision %d and the old one left alone: %v", gone, rev, err)
	}
	put(t, s, "/r/b", "y")
	s.Close()
	s = open(t, path, store.Options{})
	b, _ := s.Get("/r/b")
	if _, err := b.Object(); err == nil {
		t.Error("decoded without a codec")
	}
	s.SetCodec("/r/", codec)
	if got, err := b.Object(); err != nil || got.(*object).data != "y" || got.(*object).rev != b.ModRevision {
		t.Errorf("after reopening: %v, %v", got, err)
	}
}

func TestObjectsThatNobodyReadsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxEventAge: 8 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.SetCodec("/r/", codec)
		var entries [2]*store.Entry
		var objects [2]any
		for i := range entries {
			o := &object{data: "x"}
			if entries[i], err = s.Update(t.Context(), fmt.Sprint("/r/", i), store.Absent, store.Value{Data: []byte("x"), Object: o}); err != nil {
				t.Fatal(err)
			}
			objects[i] = o
		}
		const read, unread = 0, 1
		for range 8 {
			time.Sleep(35 * time.Second) // the store looks every minute
			if o, err := entries[read].Object(); err != nil || o != objects[read] {
				t.Errorf("an object in use was forgotten: %v", err)
			}
		}
		if o, err := entries[unread].Object(); err != nil || o == objects[unread] || o.(*object).data != "x" {
			t.Errorf("the unread object is still the same one, or not equal to it: %v", err)
		}
	})
}

func TestKeysExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := store.Open(path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ttl := func(key string, d time.Duration) {
			if _, err := s.Update(t.Context(), key, store.Any, store.Value{TTL: d, Relaxed: true}); err != nil {
				t.Fatal(err)
			}
		}
		ttl("/r/long", time.Hour)
		ttl("/r/short", time.Minute)
		ttl("/r/renewed", time.Minute)
		ttl("/r/renewed", time.Hour)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		l, _ := s.List("/r/", store.ListOptions{})
		wantKeys(t, l, "/r/long=", "/r/renewed=")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = store.Open(path, store.Options{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := s.Stats(""); st.Keys != 0 {
			t.Errorf("%d keys outlived their time over a restart", st.Keys)
		}
		s.Close()
	})
}

func TestACancelledWriteDoesNotHappen(t *testing.T) {
	s := fresh(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Update(ctx, "/r/a", store.Any, store.Value{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled write: %v", err)
	}
	if e, _ := s.Get("/r/a"); e != nil {
		t.Error("it happened")
	}
}
