package archive

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
)

// Entry is one line of a log.
type Entry struct {
	Time   int64 // nanoseconds since 1970
	Stderr bool
	Line   []byte // without the newline
}

// Position is how far a source has been read: up to Offset of the file of run Run that begins with
// an entry of time Head.
type Position struct {
	Run    int   `json:"run"`
	Head   int64 `json:"head"` // nanoseconds since 1970; 0 is none
	Offset int64 `json:"offset"`
}

func (p Position) before(o Position) bool {
	return cmp.Or(cmp.Compare(p.Run, o.Run), cmp.Compare(p.Head, o.Head), cmp.Compare(p.Offset, o.Offset)) < 0
}

// frameMagic begins every chunk in a segment.
const frameMagic = 0x31434c47 // "GLC1"

// A frame is its fixed part, the header as JSON, the index, and the compressed columns and text.
const fixedBytes = 32

// fixed is the fixed part of a frame: sizes of the others, and check sums (CRC-32C) of the header with
// these sizes and of all that follows it.
type fixed struct {
	header, index, columns, text uint32
	headerSum, restSum           uint32
}

func (f *fixed) size() int64 {
	return fixedBytes + int64(f.header) + int64(f.index) + int64(f.columns) + int64(f.text)
}

// header says what is in a chunk.
type header struct {
	Labels labels.Labels `json:"labels"`
	Source string        `json:"source"`
	Position
	Min    int64  `json:"min"` // times of the first and last line
	Max    int64  `json:"max"`
	Lines  int    `json:"lines"`
	Stderr int    `json:"stderr,omitempty"` // lines of it
	Bytes  uint32 `json:"bytes"`            // of the text, before it was compressed
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("the chunk is damaged")

// codec compresses; it keeps its working memory. Not for concurrent use.
type codec struct {
	encoder *zstd.Encoder
	text    []byte
	columns []byte
	frame   []byte
	grams   [maxGramBits / 8]byte
}

func newCodec() (*codec, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<19), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("prepare compression: %w", err)
	}
	return &codec{encoder: e}, nil
}

// encode makes a frame of a chunk; h gets what follows from the entries. It is valid until the next call.
func (c *codec) encode(h *header, entries []Entry) ([]byte, fixed, error) {
	c.text, c.columns = c.text[:0], c.columns[:0]
	h.Min, h.Max, h.Lines, h.Stderr = math.MaxInt64, math.MinInt64, len(entries), 0
	var before int64
	for i := range entries {
		e := &entries[i]
		h.Min, h.Max = min(h.Min, e.Time), max(h.Max, e.Time)
		flag := int64(0)
		if e.Stderr {
			flag = 1
			h.Stderr++
		}
		// The stream goes in the lowest bit of the length of the step in time.
		c.columns = binary.AppendVarint(c.columns, (e.Time-before)<<1|flag)
		before = e.Time
		c.text = append(append(c.text, e.Line...), '\n')
	}
	h.Bytes = uint32(len(c.text))
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fixed{}, fmt.Errorf("describe chunk: %w", err)
	}
	f := fixed{header: uint32(len(head))}
	b := append(c.frame[:0], make([]byte, fixedBytes)...)
	b = append(b, head...)
	index := gramIndex(c.text, &c.grams)
	f.index = uint32(len(index))
	b = append(b, index...)
	at := len(b)
	b = c.encoder.EncodeAll(c.columns, b)
	f.columns = uint32(len(b) - at)
	at = len(b)
	b = c.encoder.EncodeAll(c.text, b)
	f.text = uint32(len(b) - at)
	f.put(b)
	c.frame = b
	return b, f, nil
}

// put writes the fixed part at the begin of a frame.
func (f *fixed) put(frame []byte) {
	o := binary.LittleEndian
	o.PutUint32(frame[0:], frameMagic)
	o.PutUint32(frame[4:], f.header)
	o.PutUint32(frame[8:], f.index)
	o.PutUint32(frame[12:], f.columns)
	o.PutUint32(frame[16:], f.text)
	f.headerSum = f.sumHeader(frame)
	f.restSum = crc32.Checksum(frame[fixedBytes+int(f.header):], castagnoli)
	o.PutUint32(frame[20:], f.headerSum)
	o.PutUint32(frame[24:], f.restSum)
}

func (f *fixed) sumHeader(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:20], castagnoli), castagnoli, frame[fixedBytes:fixedBytes+int(f.header)])
}

// maxPart is more than any part of a sound frame has.
const maxPart = 64 << 20

// parseFixed reads the fixed part of a frame.
func parseFixed(b []byte) (f fixed, err error) {
	o := binary.LittleEndian
	f = fixed{o.Uint32(b[4:]), o.Uint32(b[8:]), o.Uint32(b[12:]), o.Uint32(b[16:]), o.Uint32(b[20:]), o.Uint32(b[24:])}
	if o.Uint32(b) != frameMagic || max(f.header, f.index, f.columns, f.text) > maxPart {
		return f, errDamaged
	}
	return f, nil
}

var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxPart))
})

// Scratch is working memory for reading chunks, for use by one reader at a time.
type Scratch struct{ raw, columns, text []byte }

// decode reads the entries that contain a text, all with an empty one, out of the compressed parts and calls each
// with them in order, until it returns false. What it is given is valid during the call.
func decode(columns, text []byte, s *Scratch, contained []byte, each func(Entry) bool) error {
	d, err := decoder()
	if err != nil {
		return fmt.Errorf("prepare decompression: %w", err)
	}
	if s.text, err = d.DecodeAll(text, s.text[:0]); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if !bytes.Contains(s.text, contained) {
		return nil
	}
	if s.columns, err = d.DecodeAll(columns, s.columns[:0]); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	var e Entry
	for rest, times := s.text, s.columns; len(rest) > 0; {
		// Most lines do not contain it: their times are added up, and nothing else.
		at := bytes.Index(rest, contained)
		if at < 0 {
			return nil
		}
		begin := bytes.LastIndexByte(rest[:at], '\n') + 1
		for range bytes.Count(rest[:begin], []byte{'\n'}) + 1 {
			step, n := binary.Varint(times)
			if n <= 0 {
				return errDamaged
			}
			times = times[n:]
			e.Time += step >> 1
			e.Stderr = step&1 == 1
		}
		line, after, ok := bytes.Cut(rest[begin:], []byte{'\n'})
		if !ok {
			return errDamaged
		}
		rest, e.Line = after, line
		if !each(e) {
			return nil
		}
	}
	return nil
}
