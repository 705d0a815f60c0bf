package inspect

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"

	maxWhiteouts = 1_000_000 // of one layer
	maxNotes     = 50
)

// unpacked is a layer's tar stream. What compressed it is told by its first bytes,
// as every runtime does.
func unpacked(packed *bufio.Reader) (r io.Reader, done func(), err error) {
	nothing := func() {}
	magic, err := packed.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nothing, err
	}
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		z, err := gzip.NewReader(packed)
		return z, nothing, err
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	}
	return packed, nothing, nil
}

// budget ends a stream that has more bytes than are left for the image.
type budget struct {
	r    io.Reader
	left *int64
}

func (b budget) Read(p []byte) (int, error) {
	if *b.left <= 0 {
		return 0, ErrTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), *b.left)])
	*b.left -= int64(n)
	return n, err
}

// layer reads one layer and brings the picture of the whole image up to date.
func (s *scan) layer(ctx context.Context, index int, l v1.Layer) error {
	blob, err := l.Compressed()
	if err != nil {
		return err
	}
	defer blob.Close()
	packed := bufio.NewReaderSize(blob, 64<<10)
	r, done, err := unpacked(packed)
	if err != nil {
		return err
	}
	defer done()
	r = budget{r, &s.bytesLeft}
	s.index, s.gone, s.emptied = index, map[string]bool{}, map[string]bool{}
	defer s.dropWaiting()
	entries := tar.NewReader(r)
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.filesLeft--; s.filesLeft < 0 {
			return fmt.Errorf("%w: it has more than %d files", ErrTooLarge, s.MaxFiles)
		}
		if err := s.entry(ctx, h, entries); err != nil {
			return err
		}
	}
	// To the end, where a content that is not what its digest says is found out.
	for _, rest := range []io.Reader{r, packed} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
	}
	s.applyWhiteouts()
	return s.readWaiting(ctx)
}

// entry looks at one member of the layer's archive.
func (s *scan) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := s.clean(h.Name)
	if name == "" {
		return nil
	}
	dir, base := path.Split(name)
	switch {
	case base == opaque:
		return s.mark(s.emptied, strings.TrimSuffix(dir, "/"))
	case strings.HasPrefix(base, whiteout):
		return s.mark(s.gone, dir+strings.TrimPrefix(base, whiteout))
	case h.Typeflag == tar.TypeDir:
		return nil
	}
	s.replace(name)
	if h.Typeflag != tar.TypeReg {
		return nil // a link shows a file that is looked at where it is
	}
	s.content.Reset(content)
	return s.file(ctx, name, h, s.content)
}

func (s *scan) mark(set map[string]bool, name string) error {
	if len(set) >= maxWhiteouts {
		return fmt.Errorf("%w: a layer deletes more than %d files", ErrTooLarge, maxWhiteouts)
	}
	set[name] = true
	return nil
}

// clean turns a name of an archive into a path below the image's root, "" for the
// root itself. No name leads out of it: a runtime resolves it in the same way.
func (s *scan) clean(name string) string {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if strings.Contains("/"+name+"/", "/../") {
		s.note("layer %d has the name %.80q, which climbs out of a directory", s.index+1, name)
	}
	return clean
}

func (s *scan) note(format string, args ...any) {
	switch n := len(s.found.Notes); {
	case n < maxNotes:
		s.found.Notes = append(s.found.Notes, fmt.Sprintf(format, args...))
	case n == maxNotes:
		s.found.Notes = append(s.found.Notes, "and more of the kind")
	}
}
