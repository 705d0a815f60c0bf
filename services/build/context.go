package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
)

// Bounds of a build context that arrives as an archive.
const (
	maxContextBytes   = 8 << 30
	maxContextEntries = 1 << 20
)

// unpack makes a directory out of a context that arrived as an archive.
func (c *Client) unpack(archive io.Reader) (dir string, remove func(), err error) {
	contexts := filepath.Join(c.paths.dir, "contexts")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		return "", nil, fmt.Errorf("unpack build context: %w", err)
	}
	if dir, err = os.MkdirTemp(contexts, ""); err != nil {
		return "", nil, fmt.Errorf("unpack build context: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if err := unpackContext(archive, dir); err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

// inside is the path of a file below dir that does not lead out of it, not even by
// symbolic links.
func inside(dir, file string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("build context: %w", err)
	}
	defer root.Close()
	if _, err := root.Stat(file); err != nil {
		return "", hint.Wrap(fmt.Errorf("the build context has no file %s: %w", file, err), "name the Dockerfile with -f")
	}
	return filepath.Join(dir, file), nil
}

// unpackContext writes a build context that arrived as a tar archive, compressed or
// not, into dir, which is empty. Whatever the archive says, nothing is written
// outside of dir and no more than the bounds and what the disk can spare.
func unpackContext(archive io.Reader, dir string) error {
	plain, err := compression.DecompressStream(archive)
	if err != nil {
		return fmt.Errorf("read build context: %w", err)
	}
	defer plain.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack build context: %w", err)
	}
	defer root.Close()
	u := &unpacker{root: root, left: maxContextBytes}
	if spare := spareBytes(dir); spare < u.left {
		u.left = spare
	}
	reader := tar.NewReader(plain)
	for entries := 0; ; entries++ {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read build context: %w", err)
		}
		if entries == maxContextEntries {
			return fmt.Errorf("the build context has more than %d entries", maxContextEntries)
		}
		if err := u.entry(h, reader); err != nil {
			return fmt.Errorf("unpack build context: %s: %w", h.Name, err)
		}
	}
}

// spareBytes is what may be written on dir's disk without filling it.
func spareBytes(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return maxContextBytes
	}
	return int64(st.Bavail)*st.Bsize - int64(st.Blocks)*st.Bsize/100
}

type unpacker struct {
	root *os.Root
	left int64 // bytes that may still be written
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name := path.Clean(strings.TrimPrefix(h.Name, "./"))
	if name == "." {
		return nil
	}
	name = filepath.FromSlash(strings.TrimPrefix(name, "/"))
	if !filepath.IsLocal(name) {
		return errors.New("leads out of the context")
	}
	mode := fs.FileMode(h.Mode).Perm()
	if parent := filepath.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, 0o700|mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return u.root.Chmod(name, 0o700|mode)
	case tar.TypeReg:
		return u.file(name, mode, h, body)
	case tar.TypeSymlink:
		return u.replacing(name, func() error { return u.root.Symlink(h.Linkname, name) })
	case tar.TypeLink:
		target := filepath.FromSlash(strings.TrimPrefix(path.Clean(h.Linkname), "/"))
		return u.replacing(name, func() error { return u.root.Link(target, name) })
	case tar.TypeXGlobalHeader:
		return nil
	}
	return errors.New("is neither a file nor a directory nor a link")
}

func (u *unpacker) file(name string, mode fs.FileMode, h *tar.Header, body io.Reader) error {
	if h.Size > u.left {
		return hint.Wrap(errors.New("the build context is larger than what builds may use of the disk"), "leave out what the build does not need: .dockerignore")
	}
	u.left -= h.Size
	return u.replacing(name, func() error {
		f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
			return err
		}
		return u.root.Chtimes(name, h.ModTime, h.ModTime)
	})
}

// replacing does what makes name, after removing what an earlier entry made of it:
// the last one counts, and nothing is written through a link.
func (u *unpacker) replacing(name string, make func() error) error {
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return make()
}
