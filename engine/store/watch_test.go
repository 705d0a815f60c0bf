package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantryhq/gantry/engine/store"
)

func TestWatchReplaysAndFollows(t *testing.T) {
	s := fresh(t)
	start := s.Revision()
	first := put(t, s, "/r/pods/a", "1")
	put(t, s, "/r/podsx/a", "other")
	put(t, s, "/r/pods/a", "2")
	all, err := s.Watch("/r/pods/", start)
	if err != nil {
		t.Fatal(err)
	}
	later, err := s.Watch("/r/pods/", first.ModRevision)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Delete(t.Context(), "/r/pods/a", store.Any, store.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, all, "+1", "1>2", "-2")
	wantEvents(t, later, "1>2", "-2")
	_, progress, err := all.Take()
	if err != nil || progress != s.Revision() {
		t.Errorf("told everything up to %d, the store is at %d: %v", progress, s.Revision(), err)
	}
	put(t, s, "/r/podsx/a", "other")
	if events, progress, _ := all.Take(); len(events) != 0 || progress != s.Revision() {
		t.Errorf("after a write elsewhere: %d events, progress %d of %d", len(events), progress, s.Revision())
	}
}

func wantEvents(t *testing.T, w *store.Watcher, want ...string) {
	t.Helper()
	var got []string
	for len(got) < len(want) {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			switch {
			case ev.Entry == nil:
				got = append(got, "-"+string(ev.Prev.Data))
			case ev.Prev == nil:
				got = append(got, "+"+string(ev.Entry.Data))
			default:
				got = append(got, string(ev.Prev.Data)+">"+string(ev.Entry.Data))
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestViewAndWatchMissNothingBetween(t *testing.T) {
	s := fresh(t)
	done := make(chan error)
	go func() {
		for i := range 2000 {
			if _, err := s.Update(t.Context(), fmt.Sprintf("/r/%d", i), store.Absent, store.Value{Relaxed: i%3 > 0}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	v, w, err := s.ViewAndWatch("/r/")
	if err != nil {
		t.Fatal(err)
	}
	seen := len(v.List("/r/", store.ListOptions{}).Entries)
	for seen < 2000 {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen += len(events)
	}
	if err := <-done; err != nil || seen != 2000 {
		t.Errorf("saw %d of 2000: %v", seen, err)
	}
}

func TestASlowWatcherIsClosedAndWritersGoOn(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{MaxEvents: 10})
	slow, err := s.Watch("/r/", 0)
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := s.Watch("/q/", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, s, "/r/a", fmt.Sprint(i))
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, store.ErrSlowWatcher) {
		t.Errorf("slow watcher: %v", err)
	}
	put(t, s, "/q/a", "x")
	wantEvents(t, quiet, "+x")
}

func TestHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{MaxEvents: 100, MaxEventBytes: 1000, MaxEventAge: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var revs []uint64
		for range 200 {
			revs = append(revs, put(t, s, "/r/a", "12").ModRevision) // 6 bytes with its key
		}
		if _, err := s.Watch("/r/", revs[98]); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from 101 events ago: %v", err)
		}
		w, err := s.Watch("/r/", revs[99])
		if err != nil {
			t.Fatal(err)
		}
		if events, _ := w.Next(t.Context()); len(events) != 100 {
			t.Errorf("replayed %d events, want 100", len(events))
		}
		big := make([]byte, 300)
		for range 5 {
			put(t, s, "/r/a", string(big))
		}
		if _, err := s.Watch("/r/", revs[199]); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from 1500 bytes ago: %v", err)
		}
		rev := s.Revision()
		put(t, s, "/r/a", "x")
		if _, err := s.Watch("/r/", rev); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, err := s.Watch("/r/", rev); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from two minutes ago: %v", err)
		}
	})
}

func TestWatchersEndWithTheStore(t *testing.T) {
	s := fresh(t)
	w, err := s.Watch("/r/", 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "/r/a", "last")
	s.Close()
	wantEvents(t, w, "+last")
	if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if _, err := s.Watch("/r/", 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch after close: %v", err)
	}
}
