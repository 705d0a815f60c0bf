package shimd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// entries returns a log's lines without their times, after checking these.
func entries(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		stamp, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
		out = append(out, rest)
	}
	return out
}

func TestLogEntries(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name   string
		writes []string // stream:text
		want   []string
	}{
		{"lines", []string{"stdout:a\nb\n"}, []string{"stdout F a", "stdout F b"}},
		{"a line in pieces", []string{"stdout:a", "stdout:b", "stdout:c\n"}, []string{"stdout F abc"}},
		{"streams do not mix", []string{"stdout:a", "stderr:x\n", "stdout:b\n"}, []string{"stderr F x", "stdout F ab"}},
		{"an empty line", []string{"stdout:\n"}, []string{"stdout F "}},
		{"unfinished", []string{"stdout:a\nb"}, []string{"stdout F a", "stdout P b"}},
		{"just as long as allowed", []string{"stdout:" + long + "\n"}, []string{"stdout F " + long}},
		{"too long", []string{"stdout:" + long, "stdout:y\n"}, []string{"stdout P " + long, "stdout F y"}},
		{"carriage returns stay", []string{"stdout:a\r\n"}, []string{"stdout F a\r"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "0.log")
			l := openLog(path)
			for _, w := range test.writes {
				stream, text, _ := strings.Cut(w, ":")
				l.write(stream, []byte(text))
			}
			l.end("stdout")
			l.end("stderr")
			l.close()
			if got := strings.Join(entries(t, path), "|"); got != strings.Join(test.want, "|") {
				t.Errorf("got  %.200q\nwant %.200q", got, test.want)
			}
		})
	}
}

func TestAMissingLogDirectoryIsCountedAndSaid(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	l := openLog(filepath.Join(dir, "0.log"))
	l.write("stdout", []byte("lost\nlost too\n"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	l.write("stdout", []byte("kept\n"))
	got := entries(t, filepath.Join(dir, "0.log"))
	if len(got) != 2 || !strings.Contains(got[0], "2 log lines were dropped: open ") || got[1] != "stdout F kept" {
		t.Errorf("entries %q", got)
	}
}

// TestAFloodStaysWithinItsBounds: nobody but the writer keeps the log small.
func TestAFloodStaysWithinItsBounds(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", logBytes-1)), 0o640); err != nil {
		t.Fatal(err) // of an earlier shim
	}
	l := openLog(path)
	line := strings.Repeat("y", 1000) + "\n"
	for range 8 * logBytes / len(line) {
		l.write("stdout", []byte(line))
	}
	l.write("stdout", []byte("last\n"))
	l.close()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != logFiles {
		t.Fatalf("%d files, want %d: %v (%v)", len(files), logFiles, files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.Size() > logBytes+maxLine {
			t.Errorf("%s has %d bytes (%v)", f, info.Size(), err)
		}
	}
	if got := entries(t, path); got[len(got)-1] != "stdout F last" {
		t.Errorf("the newest line is %q", got[len(got)-1])
	}
}

func BenchmarkLog(b *testing.B) {
	l := openLog(filepath.Join(b.TempDir(), "0.log"))
	line := []byte(strings.Repeat("a line of a hundred bytes or so, as a web server may write for a request it has served...........\n", 100))
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		l.write("stdout", line)
	}
}
