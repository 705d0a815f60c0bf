package inspect

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/simplefileapi"

	"github.com/gantryhq/gantry/services/scan/report"
)

const (
	headBytes      = 64 << 10 // looked at before a file is read
	inMemory       = 8 << 20  // larger files go to a temporary file
	maxSecretFile  = 1 << 20  // secrets are small, and so are the files that hold them
	maxOSRelease   = 64 << 10
	maxWaiting     = 256 << 20 // package databases of one layer
	maxPackages    = 500_000
	maxSecretCount = 1000
)

// scan is the state of reading one image.
type scan struct {
	Options
	detect *detectors
	found  *Found

	bytesLeft int64
	filesLeft int
	packages  int

	content *bufio.Reader // of one file after the other

	rules  []secretRule // nil until needed
	tree   tree
	before map[string][]report.Package // of replaced files

	// Of the layer that is being read:
	index         int
	gone, emptied map[string]bool // paths that it deletes; directories whose lower content it hides
	waiting       []*waiting      // package databases, read when the layer's os-release is known
	waitingBytes  int64
}

// waiting is a file whose detectors need another one of the same layer.
type waiting struct {
	name  string
	info  os.FileInfo
	body  *body
	wants []filesystem.Extractor
}

func newScan(o Options) *scan {
	return &scan{
		Options: o, detect: newDetectors(), found: &Found{}, bytesLeft: o.MaxUnpackedBytes, filesLeft: o.MaxFiles,
		tree: tree{}, before: map[string][]report.Package{}, content: bufio.NewReaderSize(nil, headBytes),
	}
}

// file looks at one regular file, reading it only when somebody wants it.
func (s *scan) file(ctx context.Context, name string, h *tar.Header, content *bufio.Reader) error {
	if mode := setuidOf(h.Mode); mode != "" {
		s.remember(name).setuid = mode
	}
	head, err := content.Peek(int(min(h.Size, headBytes)))
	if err != nil {
		return err
	}
	info := h.FileInfo()
	now, later := s.detect.wanting(simplefileapi.New(name, info), head)
	secrets := h.Size <= maxSecretFile && mayHoldSecrets(name, head)
	keep := (name == "etc/os-release" || name == "usr/lib/os-release") && h.Size <= maxOSRelease
	if len(now)+len(later) == 0 && !secrets && !keep {
		return nil
	}
	if h.Size > s.MaxFileBytes {
		s.note("%s was not looked at: it has more than %d MB", name, s.MaxFileBytes>>20)
		return nil
	}
	b, err := load(content, h.Size, s.TempDir)
	if err != nil {
		return err
	}
	if secrets {
		s.secrets(name, b.memory)
	}
	if keep {
		s.remember(name).content = bytes.Clone(b.memory)
	}
	if len(later) > 0 {
		if s.waitingBytes += h.Size; s.waitingBytes > maxWaiting {
			b.drop()
			return fmt.Errorf("%w: the package databases of one layer have more than %d MB", ErrTooLarge, maxWaiting>>20)
		}
		s.waiting = append(s.waiting, &waiting{name, info, b, later})
		return nil
	}
	defer b.drop()
	return s.extract(ctx, name, info, b, now)
}

// readWaiting reads the package databases of the layer.
func (s *scan) readWaiting(ctx context.Context) error {
	for _, w := range s.waiting {
		if err := s.extract(ctx, w.name, w.info, w.body, w.wants); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) dropWaiting() {
	for _, w := range s.waiting {
		w.body.drop()
	}
	s.waiting, s.waitingBytes = nil, 0
}

// extract runs detectors over a file. One that cannot read it is noted: a package
// database that is damaged must not look like an image without packages.
func (s *scan) extract(ctx context.Context, name string, info os.FileInfo, b *body, wants []filesystem.Extractor) error {
	for _, e := range wants {
		r := b.reader()
		inventory, err := run(ctx, e, &filesystem.ScanInput{FS: &view{s, name, info, b}, Path: name, Info: info, Reader: r})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.note("%s could not be read as %s: %.200v", name, e.Name(), err)
		}
		for _, p := range inventory.Packages {
			if s.packages++; s.packages > maxPackages {
				return fmt.Errorf("%w: it has more than %d packages", ErrTooLarge, maxPackages)
			}
			f := s.remember(name)
			f.packages = append(f.packages, s.attribute(name, toPackage(p, name)))
		}
	}
	delete(s.before, name)
	return nil
}

// attribute gives a package the layer that brought it: a later one often rewrites
// the database with all that was there before.
func (s *scan) attribute(name string, p report.Package) report.Package {
	p.Layer = s.index
	for _, old := range s.before[name] {
		if old.Name == p.Name && old.Version == p.Version {
			p.Layer = old.Layer
			break
		}
	}
	return p
}

// finish takes from the picture what the image as a whole has.
func (s *scan) finish() *Found {
	for name, f := range s.tree {
		s.found.Packages = append(s.found.Packages, f.packages...)
		if f.setuid != "" {
			s.found.Setuid = append(s.found.Setuid, Setuid{Path: name, Mode: f.setuid, Layer: f.layer})
		}
	}
	for i := range s.found.Secrets {
		secret := &s.found.Secrets[i]
		f := s.tree[secret.Path]
		secret.Deleted = f == nil || f.layer != secret.Layer
	}
	s.found.OS = osName(s.tree)
	slices.SortFunc(s.found.Setuid, func(a, b Setuid) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(s.found.Secrets, func(a, b Secret) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Kind, b.Kind))
	})
	return s.found
}

// osName is what os-release calls the system.
func osName(t tree) string {
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		f := t[path]
		if f == nil {
			continue
		}
		for line := range strings.Lines(string(f.content)) {
			if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(strings.TrimSpace(value), `"'`)
			}
		}
	}
	return ""
}

func setuidOf(mode int64) string {
	var out []string
	if mode&0o4000 != 0 {
		out = append(out, "setuid")
	}
	if mode&0o2000 != 0 && mode&0o010 != 0 { // without execution it means locking
		out = append(out, "setgid")
	}
	return strings.Join(out, ", ")
}

// body is a file's content.
type body struct {
	memory []byte
	disk   *os.File // has no name any more
	size   int64
}

func load(r io.Reader, size int64, tempDir string) (*body, error) {
	if size <= inMemory {
		b := &body{memory: make([]byte, size), size: size}
		_, err := io.ReadFull(r, b.memory)
		return b, err
	}
	f, err := os.CreateTemp(tempDir, "scan-*")
	if err != nil {
		return nil, fmt.Errorf("hold a file of %d MB: %w", size>>20, err)
	}
	b := &body{disk: f, size: size}
	if err := os.Remove(f.Name()); err != nil {
		b.drop()
		return nil, err
	}
	if _, err := io.CopyN(f, r, size); err != nil {
		b.drop()
		return nil, err
	}
	return b, nil
}

// drop frees the content, which nobody reads any more.
func (b *body) drop() {
	if b.disk != nil {
		_ = b.disk.Close() // it is gone with its descriptor
	}
	b.memory = nil
}

// reader reads from the start and at any place.
func (b *body) reader() *io.SectionReader {
	if b.disk != nil {
		return io.NewSectionReader(b.disk, 0, b.size)
	}
	return io.NewSectionReader(bytes.NewReader(b.memory), 0, b.size)
}
