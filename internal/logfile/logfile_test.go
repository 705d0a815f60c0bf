package logfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFilesAreRotatedBySizeAndAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f, err := Open(path, Options{MaxSize: 100, MaxAge: time.Hour, Keep: 3, Now: func() time.Time { now = now.Add(time.Millisecond); return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := strings.Repeat("x", 39) + "\n"
	write := func() {
		if n, err := f.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	rotated := func(want int) []string {
		t.Helper()
		names, err := f.Rotated()
		if err != nil || len(names) != want {
			t.Fatalf("rotated files %v, %v; want %d", names, err, want)
		}
		return names
	}
	write()
	write()
	rotated(0)
	write()
	for _, name := range rotated(1) {
		if text, _ := os.ReadFile(name); string(text) != line+line {
			t.Errorf("%s holds %q, want two whole lines", name, text)
		}
	}
	now = now.Add(time.Hour)
	write()
	rotated(2)
	for range 20 {
		write()
	}
	rotated(3)
	if text, _ := os.ReadFile(path); len(text) == 0 || len(text) > 100 {
		t.Errorf("the file has %d bytes", len(text))
	}
}

func TestTwoProcessesWriteToOneName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	a, err := Open(path, Options{MaxSize: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open(path, Options{MaxSize: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		a.Write([]byte("aaaaaa\n"))
		b.Write([]byte("bbbbbb\n"))
	}
	names, _ := a.Rotated()
	all := ""
	for _, name := range append(names, path) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	if strings.Count(all, "a\n") != 3 || strings.Count(all, "b\n") != 3 {
		t.Errorf("lines are lost: %q", all)
	}
}
