package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/internal/testenv"
)

// filled makes a closed state file with some content.
func filled(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.Options{})
	for i := range 200 {
		put(t, s, fmt.Sprintf("/r/%03d", i), strings.Repeat(fmt.Sprint(i), 300))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

// contents reads all of a file, or answers why it cannot be opened.
func contents(path string) ([]string, error) {
	s, err := store.Open(path, store.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	l, err := s.List("/r/", store.ListOptions{})
	if err != nil {
		return nil, err
	}
	return keys(l), nil
}

// TestDamageIsRefused damages a file in many ways. Each must either be refused,
// naming the file and leaving it alone, or have hit bytes that hold nothing.
func TestDamageIsRefused(t *testing.T) {
	path, good := filled(t)
	want, err := contents(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	page := os.Getpagesize()
	refused := 0
	for n := range 400 {
		bad := bytes.Clone(good)
		var what string
		switch n % 4 {
		case 0: // one flipped bit
			i := rng.IntN(len(bad))
			bad[i] ^= 1 << rng.IntN(8)
			what = fmt.Sprintf("bit flipped at %d", i)
		case 1: // a page that never reached the disk
			i := rng.IntN(len(bad)/page) * page
			clear(bad[i : i+page])
			what = fmt.Sprintf("page at %d zeroed", i)
		case 2: // a page torn in the middle
			i := rng.IntN(len(bad)/page)*page + 512*(1+rng.IntN(7))
			for j := i; j%page != 0; j++ {
				bad[j] = byte(rng.Uint32())
			}
			what = fmt.Sprintf("page torn at %d", i)
		case 3:
			bad = bad[:rng.IntN(len(bad))]
			what = fmt.Sprintf("cut off at %d", len(bad))
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := contents(path)
		if err == nil {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: opened with other content", what)
			}
			continue
		}
		refused++
		var corrupt *store.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "to restore") {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, bad) {
			t.Errorf("%s: the refused file was changed", what)
		}
	}
	if refused < 50 { // most of the file is free pages
		t.Errorf("only %d of 400 damages were refused", refused)
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	for _, content := range []string{"", "hello", strings.Repeat("x", 1<<16)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt *store.CorruptError
		if _, err := store.Open(path, store.Options{}); !errors.As(err, &corrupt) {
			t.Errorf("opened a file of %d bytes: %v", len(content), err)
		}
		if got, _ := os.ReadFile(path); string(got) != content {
			t.Errorf("the file of %d bytes was changed", len(content))
		}
	}
	if _, err := store.Open(filepath.Join(path, "x"), store.Options{}); err == nil || errors.As(err, new(*store.CorruptError)) {
		t.Errorf("a path below a file: %v", err)
	}
}

func TestOnlyOneProcessOpensAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.Options{})
	_, err := store.Open(path, store.Options{})
	var locked *store.LockedError
	if !errors.As(err, &locked) || !strings.Contains(err.Error(), path) {
		t.Fatalf("second open: %v", err)
	}
	if holder := fmt.Sprintf("process %d", os.Getpid()); !strings.Contains(err.Error(), holder) {
		t.Logf("the kernel did not tell who holds the lock: %v", err)
	}
	s.Close()
	open(t, path, store.Options{})
}

func TestABackupIsACompleteStore(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"), store.Options{RelaxedDelay: time.Hour})
	put(t, s, "/r/a", "1")
	if _, err := s.Update(t.Context(), "/r/b", store.Any, store.Value{Data: []byte("2"), Relaxed: true}); err != nil {
		t.Fatal(err)
	}
	copyPath := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.Create(copyPath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/r/c", "later")
	got, err := contents(copyPath)
	if err != nil || fmt.Sprint(got) != "[/r/a=1 /r/b=2]" {
		t.Errorf("the copy holds %q: %v", got, err)
	}
}

func TestAFullDiskRefusesWritesAndRecovers(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "state.db")
	s := open(t, path, store.Options{RelaxedDelay: time.Millisecond})
	put(t, s, "/r/kept", "before")
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	written := map[string]int{}
	big := bytes.Repeat([]byte("x"), 40<<10)
	var full error
	for i := 0; full == nil && i < 200; i++ {
		key := fmt.Sprintf("/r/big/%d", i)
		before := s.Revision()
		if _, full = s.Update(t.Context(), key, store.Absent, store.Value{Data: big}); full == nil {
			written[key] = len(big)
		} else if e, _ := s.Get(key); e != nil || s.Revision() != before {
			t.Errorf("the refused write of %s shows: %v", key, e)
		}
	}
	var noSpace *store.NoSpaceError
	if !errors.As(full, &noSpace) || !errors.Is(full, syscall.ENOSPC) {
		t.Fatalf("the disk never filled up properly: %v", full)
	}
	// Relaxed writes do not need the disk yet.
	if _, err := s.Update(t.Context(), "/r/relaxed", store.Any, store.Value{Data: []byte("in memory"), Relaxed: true}); err != nil {
		t.Errorf("relaxed write on a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/r/after", "space returned")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, store.Options{})
	for key, want := range map[string]string{"/r/kept": "before", "/r/relaxed": "in memory", "/r/after": "space returned"} {
		if e, _ := s.Get(key); e == nil || string(e.Data) != want {
			t.Errorf("%s holds %v, want %q", key, e, want)
		}
	}
	for key, n := range written {
		if e, _ := s.Get(key); e == nil || len(e.Data) != n {
			t.Errorf("acknowledged %s is lost", key)
		}
	}
	if st := s.Stats("/r/big/"); st.Keys != int64(len(written)) {
		t.Errorf("%d keys on disk, %d were acknowledged", st.Keys, len(written))
	}
}
