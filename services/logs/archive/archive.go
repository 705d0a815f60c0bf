package archive

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

// Config says where lines are kept and how many.
type Config struct {
	Dir       string        // made when it does not exist
	Retention time.Duration // how long lines are kept
	MaxBytes  int64         // how much disk they take at most
	Log       *slog.Logger
}

// Archive is an open archive.
type Archive struct {
	cfg   Config
	codec *codec // guarded by writing

	writing sync.Mutex // one chunk is appended at a time; taken before mu

	mu        sync.RWMutex // guards following
	segments  []*segment   // oldest first; the last one is appended to
	streams   map[string]*stream
	positions map[string]Position // by source
}

const (
	segmentSuffix = ".segment"
	positionsFile = "positions.json"
	// A segment is closed when it is as big, or as old: what is removed for its age is removed by segments.
	maxSegment    = 16 << 20
	maxSegmentAge = 6 * time.Hour
)

// Open opens the archive in a directory, or begins one.
func Open(cfg Config) (*Archive, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log archive: %w", err)
	}
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	a := &Archive{cfg: cfg, codec: c, streams: map[string]*stream{}, positions: map[string]Position{}}
	text, err := os.ReadFile(filepath.Join(cfg.Dir, positionsFile))
	if err == nil {
		err = json.Unmarshal(text, &a.positions)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("cannot read how far logs had been read; chunks tell it too", "err", err)
	}
	paths, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+segmentSuffix)) // the pattern is sound
	slices.Sort(paths)
	for i, path := range paths {
		if err := a.load(path, i == len(paths)-1); err != nil {
			return nil, errors.Join(err, a.Close())
		}
	}
	return a, nil
}

func (a *Archive) load(path string, newest bool) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open log segment: %w", err)
	}
	s := &segment{path: path, file: f}
	if info, err := f.Stat(); err == nil {
		s.began = info.ModTime()
	}
	a.segments = append(a.segments, s)
	return s.load(newest, func(h *header, c *chunk) {
		a.add(h, c)
		if a.positions[h.Source].before(h.Position) {
			a.positions[h.Source] = h.Position
		}
	})
}

// add notes a chunk. Its stream is found by its labels. Holds a.mu, or is alone.
func (a *Archive) add(h *header, c *chunk) {
	key := h.Source + "\x00" + h.Labels.String()
	st := a.streams[key]
	if st == nil {
		st = &stream{source: h.Source, labels: h.Labels}
		a.streams[key] = st
	}
	c.stream = st
	st.chunks = append(st.chunks, c)
}

// Append keeps lines of a source, which has been read up to a position with them. With no lines it
// keeps nothing. commit runs when they are in the archive, before anybody can see them there.
func (a *Archive) Append(source string, lbls labels.Labels, to Position, entries []Entry, commit func()) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	if len(entries) == 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.positions[source] = to
		commit()
		return nil
	}
	h := &header{Labels: lbls, Source: source, Position: to}
	frame, f, err := a.codec.encode(h, entries)
	if err != nil {
		return err
	}
	s, err := a.current(int64(len(frame)))
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := s.size
	if err := s.append(frame); err != nil {
		return err
	}
	s.newest = max(s.newest, h.Max)
	a.add(h, newChunk(h, f, s, at))
	a.positions[source] = to
	commit()
	return nil
}

// current is the segment to append to. Holds a.writing.
func (a *Archive) current(more int64) (*segment, error) {
	if n := len(a.segments); n > 0 {
		if s := a.segments[n-1]; s.size+more <= maxSegment && time.Since(s.began) < maxSegmentAge {
			return s, nil
		}
	}
	if err := a.Sync(); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	path := filepath.Join(a.cfg.Dir, now.Format("20060102T150405.000000000")+segmentSuffix)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin log segment: %w", err)
	}
	s := &segment{path: path, file: f, began: now}
	a.mu.Lock()
	a.segments = append(a.segments, s)
	a.mu.Unlock()
	return s, nil
}

// Position is how far a source has been read, and whether it is known.
func (a *Archive) Position(source string) (Position, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	p, ok := a.positions[source]
	return p, ok
}

// Forget lets go of the positions of sources that are no more; it keeps their lines.
func (a *Archive) Forget(gone func(source string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.positions, func(source string, _ Position) bool { return gone(source) })
}

// Sync returns when all that was appended is on the disk.
func (a *Archive) Sync() error {
	a.mu.RLock()
	segments := slices.Clone(a.segments)
	a.mu.RUnlock()
	for _, s := range segments {
		a.mu.Lock()
		unsaved := s.unsaved
		s.unsaved = false
		a.mu.Unlock()
		if unsaved {
			if err := s.file.Sync(); err != nil {
				return fmt.Errorf("save log segment: %w", err)
			}
		}
	}
	return nil
}

// Trim removes the oldest segments while there are lines that are too old or too many, and
// returns how many bytes it has removed.
func (a *Archive) Trim(now time.Time) (removed int64, err error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	cutoff := now.Add(-a.cfg.Retention).UnixNano()
	total := a.Size()
	for len(a.segments) > 0 {
		s := a.segments[0]
		if s.newest >= cutoff && total <= a.cfg.MaxBytes {
			break
		}
		if removed == 0 { // once is enough: the chunks that follow know newer ones
			if err := a.savePositions(); err != nil {
				return 0, err
			}
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove log segment: %w", err)
		}
		a.drop(s)
		total -= s.size
		removed += s.size
	}
	return removed, nil
}

// drop forgets a segment and its chunks. Those who read it keep its file open.
func (a *Archive) drop(s *segment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.segments = slices.DeleteFunc(slices.Clone(a.segments), func(o *segment) bool { return o == s })
	for key, st := range a.streams {
		// Readers may hold the old list.
		st.chunks = slices.DeleteFunc(slices.Clone(st.chunks), func(c *chunk) bool { return c.segment == s })
		if len(st.chunks) == 0 {
			delete(a.streams, key)
		}
	}
}

// savePositions writes positions that would be lost with the chunks that tell them.
func (a *Archive) savePositions() error {
	a.mu.RLock()
	text, err := json.Marshal(a.positions)
	a.mu.RUnlock()
	if err == nil {
		err = atomicfile.Write(filepath.Join(a.cfg.Dir, positionsFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save how far logs have been read: %w", err)
	}
	return nil
}

// Size is how many bytes the archive takes.
func (a *Archive) Size() (total int64) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, s := range a.segments {
		total += s.size
	}
	return total
}

// Close saves what was appended. Nothing may be asked any more.
func (a *Archive) Close() error {
	err := a.Sync()
	for _, s := range a.segments {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// Chunk is a piece of a log in the archive.
type Chunk struct {
	Labels   labels.Labels
	Min, Max int64 // times of its first and last line
	// Order grows from chunk to chunk of one file, by more than there are lines.
	Order int64
	// Bytes is the size of its text, Lines and Stderr how many lines it has in all and of the error stream.
	Bytes, Lines, Stderr int
	chunk                *chunk
}

// Scan calls each with the lines of the chunk that contain a text, all with an empty one, in their order until it
// returns false. It may leave all out when no line can contain each of the needles. What each is given is
// valid during the call.
func (c *Chunk) Scan(s *Scratch, needles []Needle, contained []byte, each func(Entry) bool) error {
	return c.chunk.scan(s, needles, contained, each)
}

// Times is Scan of all lines without their texts, which costs much less.
func (c *Chunk) Times(s *Scratch, each func(Entry) bool) error { return c.chunk.times(s, each) }

// Select returns the chunks that may have lines from one time to another, both included, of streams that
// fit. also runs while nothing is appended.
func (a *Archive) Select(from, to int64, fits func(labels.Labels) bool, also func()) []Chunk {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var found []Chunk
	for _, st := range a.streams {
		if !fits(st.labels) {
			continue
		}
		for _, c := range st.chunks {
			if c.max >= from && c.min <= to {
				found = append(found, Chunk{st.labels, c.min, c.max, c.order, int(c.bytes), int(c.lines), int(c.stderr), c})
			}
		}
	}
	also()
	slices.SortFunc(found, func(x, y Chunk) int { return cmp.Compare(x.Min, y.Min) })
	return found
}
