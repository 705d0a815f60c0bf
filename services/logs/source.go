package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/crilog"
	"github.com/gantryhq/gantry/services/logs/search"
)

// source is the log of one container: the files of a directory, in their order. One goroutine at a
// time reads on (the holder of collector.step).
type source struct {
	key       string // NAMESPACE_POD_UID/CONTAINER
	dir       string
	pod       crilog.Pod
	container string
	counts    *counters

	listed    time.Time // the directory's time when files were listed; zero looks again
	read      int64     // how far lines of the file have been counted and told to followers
	allowance float64   // bytes that may be archived now
	refilled  time.Time

	// guarded by collector.mu, changed by the holder of step only
	labels   labels.Labels
	file     *os.File // nil before the first
	run      int
	head     int64 // time of the file's first entry
	archived int64 // how far the file is in the archive
	last     int64 // time of the last line that was read
}

// at is the position of what is archived.
func (s *source) at() archive.Position {
	return archive.Position{Run: s.run, Head: s.head, Offset: s.archived}
}

// What a container may write: more is archived only as far as it is still there later.
const (
	floodRate  = 2 << 20  // bytes a second, for long
	floodBurst = 40 << 20 // bytes at once
	// chunkBytes is how much of a file makes a chunk.
	chunkBytes = 256 << 10
	// patience is how many further files there may be before the rest of one is given up.
	patience = 3
)

// refill gives the source what it may use for the time that has passed.
func (s *source) refill(now time.Time) {
	if s.refilled.IsZero() {
		s.allowance = floodBurst
	} else {
		s.allowance = min(floodBurst, s.allowance+floodRate*now.Sub(s.refilled).Seconds())
	}
	s.refilled = now
}

// later lists the files after the one that is read, when the directory has changed.
func (s *source) later(now time.Time) ([]crilog.File, error) {
	info, err := os.Stat(s.dir)
	if err != nil {
		return nil, err
	}
	if info.ModTime().Equal(s.listed) {
		return nil, nil
	}
	files, err := crilog.Files(s.dir)
	if err != nil {
		return nil, err
	}
	// A change in the moment of listing may not change the time again.
	if s.listed = info.ModTime(); now.Sub(s.listed) < time.Second {
		s.listed = time.Time{}
	}
	if s.file == nil {
		return files, nil
	}
	ours, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	for i, f := range files {
		if info, err := os.Stat(f.Path); err == nil && os.SameFile(info, ours) {
			return files[i+1:], nil
		}
	}
	// Ours has been removed: all that began later follows.
	for i, f := range files {
		if h, err := headOf(f.Path); f.Run > s.run || err == nil && f.Run == s.run && h > s.head {
			return files[i:], nil
		}
	}
	return nil, nil
}

func headOf(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return crilog.Head(f)
}

// resume finds the file where a former process has stopped, and whether a part is missing since.
func resume(files []crilog.File, at archive.Position) (rest []crilog.File, offset int64, missing bool) {
	heads := make([]int64, len(files))
	for i, f := range files {
		heads[i], _ = headOf(f.Path) // of one that cannot be read nothing follows
		if f.Run == at.Run && heads[i] == at.Head {
			return files[i:], at.Offset, false
		}
	}
	for i, f := range files {
		if f.Run > at.Run || f.Run == at.Run && heads[i] > at.Head {
			return files[i:], 0, f.Run == at.Run
		}
	}
	return nil, 0, false // all of it is archived
}

// block is how much of a file is read at once to count lines.
const block = 128 << 10

// count reads what is new in the file, counts it, and tells followers of it.
func (s *source) count(buf []byte, tell func(b []byte)) error {
	for {
		n, err := s.file.ReadAt(buf[:block], s.read)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		end := bytes.LastIndexByte(buf[:n], '\n') + 1
		if end == 0 && n == block { // an entry that is none
			end = n
		}
		if end == 0 {
			return nil
		}
		b := buf[:end]
		lines := bytes.Count(b, []byte{'\n'})
		s.counts.lines.Add(float64(lines))
		s.counts.bytes.Add(float64(max(0, end-lines*overhead(b))))
		tell(b)
		s.read += int64(end)
	}
}

// overhead is how many bytes of each entry are not of its text, as the first one of b shows it.
func overhead(b []byte) int {
	at := 0
	for range 3 { // TIME STREAM TAG TEXT
		i := bytes.IndexByte(b[at:min(len(b), 128)], ' ')
		if i < 0 {
			return 0
		}
		at += i + 1
	}
	return at + 1 // the newline
}

// tail is the part of a log that is in no chunk yet, for reading.
type tail struct {
	labels   labels.Labels
	file     *os.File // of the reader's own
	from, to int64
}

// unit makes the tail a piece to search in.
func (t *tail) unit(now time.Time) (search.Unit, error) {
	first := make([]byte, 64)
	n, err := t.file.ReadAt(first[:min(64, t.to-t.from)], t.from)
	if err != nil && !errors.Is(err, io.EOF) {
		return search.Unit{}, fmt.Errorf("read log: %w", err)
	}
	u := search.Unit{Labels: t.labels, Order: t.from, Max: now.UnixNano(), Close: func() { t.file.Close() }}
	crilog.Lines(append(first[:n], '\n'), func(e crilog.Entry) bool {
		u.Min = e.Time
		return false
	})
	u.Max = max(u.Max, u.Min) // should the clock have been put back
	u.Scan = t.scan
	return u, nil
}

// partial is what entries have that hold a piece of a line: what a line contains may be in two of them.
var partial = []byte(" P ")

// scan calls each with the lines of the tail; it may leave out those that do not contain a text.
func (t *tail) scan(_ *archive.Scratch, _ []archive.Needle, contained []byte, each func(archive.Entry) bool) error {
	for at := t.from; at < t.to; {
		b := make([]byte, min(chunkBytes, t.to-at))
		n, err := t.file.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		b = b[:n]
		end := crilog.Complete(b)
		if last := at+int64(n) >= t.to; end == 0 || last {
			end = bytes.LastIndexByte(b, '\n') + 1
		}
		if end == 0 {
			return nil
		}
		going := true
		if bytes.Contains(b[:end], contained) || bytes.Contains(b[:end], partial) {
			crilog.Lines(b[:end], func(e crilog.Entry) bool {
				going = each(archive.Entry(e))
				return going
			})
		}
		if at += int64(end); !going {
			return nil
		}
	}
	return nil
}

// openTail returns what is not archived, or nil. Holds collector.mu.
func (s *source) openTail() (*tail, error) {
	if s.file == nil {
		return nil, nil
	}
	info, err := s.file.Stat()
	if err != nil || info.Size() <= s.archived {
		return nil, err
	}
	fd, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &tail{s.labels, os.NewFile(uintptr(fd), filepath.Base(s.file.Name())), s.archived, info.Size()}, nil
}
