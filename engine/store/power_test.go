package store_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantryhq/gantry/engine/store"
)

// TestPowerLoss rebuilds what a disk may hold when the power fails during a
// commit, and expects either the state before it or the state after it.
//
// A commit writes its pages, waits for the disk, writes one of the two meta
// pages and waits again. So at a failure any of its pages may be there or not
// as long as the meta page is the old one, and the meta page may be torn only
// when all others are there.
func TestPowerLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.Options{})
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range 50 {
		put(t, s, fmt.Sprintf("/r/%02d", i), "first")
	}
	for round := range 60 {
		before, beforeKeys := diskAndMemory(t, s, path)
		key := fmt.Sprintf("/r/%02d", rng.IntN(60))
		if _, _, err := s.Delete(t.Context(), key, store.Any, store.DeleteOptions{}); err != nil || rng.IntN(3) > 0 {
			before, beforeKeys = diskAndMemory(t, s, path)
			put(t, s, key, string(bytes.Repeat([]byte{'a' + byte(round%26)}, rng.IntN(6000))))
		}
		after, afterKeys := diskAndMemory(t, s, path)

		lost := mix(before, after, func(page int) bool { return page > 1 && rng.IntN(2) == 0 })
		wantContents(t, lost, "with some pages of the commit", beforeKeys)

		torn := mix(before, after, func(page int) bool { return page > 1 })
		at := rng.IntN(100) // a meta page uses its first 80 bytes
		for _, page := range []int{0, 1} {
			copy(torn[page*os.Getpagesize():][:at], after[page*os.Getpagesize():])
		}
		wantContents(t, torn, fmt.Sprintf("with a meta page torn at byte %d", at), beforeKeys, afterKeys)
	}
}

// diskAndMemory reads the file while nothing is being written, and what it must hold.
func diskAndMemory(t *testing.T, s *store.Store, path string) ([]byte, []string) {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.List("/r/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return disk, keys(l)
}

// mix is before with the pages of after that reached the disk.
func mix(before, after []byte, reached func(page int) bool) []byte {
	mixed := make([]byte, len(after))
	copy(mixed, before)
	size := os.Getpagesize()
	for page := 0; page*size < len(after); page++ {
		if reached(page) {
			copy(mixed[page*size:(page+1)*size], after[page*size:])
		}
	}
	return mixed
}

func wantContents(t *testing.T, disk []byte, what string, allowed ...[]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := contents(path)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !slices.ContainsFunc(allowed, func(want []string) bool { return slices.Equal(got, want) }) {
		t.Fatalf("%s: the state is neither that before the commit nor that after it", what)
	}
}
