package archive

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// segment is one file of chunks.
type segment struct {
	path    string
	file    *os.File // closed when nobody refers to it any more
	size    int64
	began   time.Time
	newest  int64 // time of the newest line
	unsaved bool  // written since the last sync
}

// stream is what chunks of the same container have in common.
type stream struct {
	source string
	labels labels.Labels
	chunks []*chunk // in the order of their appending
}

// chunk is what is held in memory of one.
type chunk struct {
	stream   *stream
	segment  *segment
	offset   int64 // of its frame
	min, max int64
	f        fixed
	lines    uint32
	stderr   uint32
	bytes    uint32
	order    int64
}

func newChunk(h *header, f fixed, s *segment, offset int64) *chunk {
	return &chunk{
		segment: s, offset: offset, f: f, min: h.Min, max: h.Max, lines: uint32(h.Lines), stderr: uint32(h.Stderr), bytes: h.Bytes,
		order: h.Offset - int64(h.Bytes),
	}
}

// load reads which chunks are in a segment, and calls found with each. What follows the last sound
// chunk is cut off when the segment is the newest one; in it, all that was written is checked.
func (s *segment) load(newest bool, found func(*header, *chunk)) error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("read log segment: %w", err)
	}
	var b []byte
	for s.size < info.Size() {
		h, f, err := s.readHeader(s.size, info.Size(), &b)
		if err == nil && newest {
			err = s.check(s.size, f, &b)
		}
		if errors.Is(err, errDamaged) {
			if newest {
				return s.file.Truncate(s.size)
			}
			return nil // what follows cannot be found
		}
		if err != nil {
			return fmt.Errorf("read log segment %s: %w", s.path, err)
		}
		s.newest = max(s.newest, h.Max)
		found(h, newChunk(h, f, s, s.size))
		s.size += f.size()
	}
	return nil
}

// readHeader reads the header of the frame at an offset of a file of a size.
func (s *segment) readHeader(at, size int64, b *[]byte) (*header, fixed, error) {
	if size-at < fixedBytes {
		return nil, fixed{}, errDamaged
	}
	*b = grown(*b, int(min(1024, size-at))) // most headers are smaller
	if _, err := s.file.ReadAt(*b, at); err != nil {
		return nil, fixed{}, err
	}
	f, err := parseFixed(*b)
	if err != nil {
		return nil, f, err
	}
	if at+f.size() > size {
		return nil, f, errDamaged
	}
	if need := fixedBytes + int(f.header); len(*b) < need {
		*b = grown(*b, need)
		if _, err := s.file.ReadAt(*b, at); err != nil {
			return nil, f, err
		}
	}
	if f.sumHeader(*b) != f.headerSum {
		return nil, f, errDamaged
	}
	h := &header{}
	if err := json.Unmarshal((*b)[fixedBytes:fixedBytes+int(f.header)], h); err != nil {
		return nil, f, errDamaged
	}
	return h, f, nil
}

// check compares what follows the header with its sum.
func (s *segment) check(at int64, f fixed, b *[]byte) error {
	head := fixedBytes + int64(f.header)
	*b = grown(*b, int(f.size()-head))
	if _, err := s.file.ReadAt(*b, at+head); err != nil {
		return err
	}
	if crc32.Checksum(*b, castagnoli) != f.restSum {
		return errDamaged
	}
	return nil
}

// append writes a frame at the end; when that fails nothing of it is left.
func (s *segment) append(frame []byte) error {
	n, err := s.file.WriteAt(frame, s.size)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, s.file.Truncate(s.size))
		}
		return fmt.Errorf("write log segment: %w", err)
	}
	s.size += int64(n)
	s.unsaved = true
	return nil
}

// times calls each with the entries of a chunk without their texts, which need not be read for it.
func (c *chunk) times(s *Scratch, each func(Entry) bool) error {
	s.raw = grown(s.raw, int(c.f.columns))
	if _, err := c.segment.file.ReadAt(s.raw, c.offset+fixedBytes+int64(c.f.header)+int64(c.f.index)); err != nil {
		return fmt.Errorf("read log segment: %w", err)
	}
	d, err := decoder()
	if err != nil {
		return fmt.Errorf("prepare decompression: %w", err)
	}
	if s.columns, err = d.DecodeAll(s.raw, s.columns[:0]); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	var e Entry
	for times := s.columns; len(times) > 0; {
		step, n := binary.Varint(times)
		if n <= 0 {
			return errDamaged
		}
		times = times[n:]
		e.Time += step >> 1
		if e.Stderr = step&1 == 1; !each(e) {
			return nil
		}
	}
	return nil
}

// grown is b with a length, its content lost.
func grown(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// scan calls each with the entries of a chunk that contain a text, if its index has the needles.
func (c *chunk) scan(s *Scratch, needles []Needle, contained []byte, each func(Entry) bool) error {
	at := c.offset + fixedBytes + int64(c.f.header)
	if len(needles) > 0 {
		s.raw = grown(s.raw, int(c.f.index))
		if _, err := c.segment.file.ReadAt(s.raw, at); err != nil {
			return fmt.Errorf("read log segment: %w", err)
		}
		for _, n := range needles {
			if !n.mayBeIn(s.raw) {
				return nil
			}
		}
	}
	s.raw = grown(s.raw, int(c.f.columns+c.f.text))
	if _, err := c.segment.file.ReadAt(s.raw, at+int64(c.f.index)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read log segment: %w", err)
	}
	return decode(s.raw[:c.f.columns], s.raw[c.f.columns:], s, contained, each)
}
