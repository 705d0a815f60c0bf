package base

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// layerWriter writes a compressed layer whose bytes depend on nothing but the
// files: entries come sorted, nothing is newer than newest, owners are numbers.
type layerWriter struct {
	file   *os.File
	zip    *gzip.Writer
	tar    *tar.Writer
	newest time.Time
	links  map[inode]string // first name of files with several
}

type inode struct{ dev, ino uint64 }

func newLayerWriter(path string, newest time.Time) (*layerWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	zip := gzip.NewWriter(f)
	return &layerWriter{file: f, zip: zip, tar: tar.NewWriter(zip), newest: newest, links: map[inode]string{}}, nil
}

func (l *layerWriter) close() error {
	return errors.Join(l.tar.Close(), l.zip.Close(), l.file.Close())
}

// add writes one entry that is not from the disk.
func (l *layerWriter) add(h tar.Header, body string) error {
	h.Size = int64(len(body))
	h.ModTime = l.newest
	h.Format = tar.FormatPAX
	if err := l.tar.WriteHeader(&h); err != nil {
		return err
	}
	_, err := io.WriteString(l.tar, body)
	return err
}

// tree writes everything under root except what skip says (paths relative to
// root), device nodes and sockets. WalkDir goes in lexical order.
func (l *layerWriter) tree(root string, skip func(rel string) bool) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		if skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return l.entry(path, rel, d)
	})
}

func (l *layerWriter) entry(path, rel string, d fs.DirEntry) error {
	if d.Type()&(fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return nil // the runtime makes the devices a container needs
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := l.header(info, rel, target)
	if err != nil {
		return err
	}
	if err := addXattrs(h, path, info); err != nil {
		return err
	}
	if err := l.tar.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(l.tar, f)
	return errors.Join(err, f.Close())
}

func (l *layerWriter) header(info fs.FileInfo, rel, target string) (*tar.Header, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no file information", rel)
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	*h = tar.Header{
		Typeflag: h.Typeflag, Name: rel, Linkname: target, Size: h.Size, Mode: h.Mode,
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: info.ModTime().Truncate(time.Second), Format: tar.FormatPAX,
	}
	if h.ModTime.After(l.newest) {
		h.ModTime = l.newest
	}
	if info.IsDir() {
		h.Name += "/"
	}
	if h.Typeflag == tar.TypeReg && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, seen := l.links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			l.links[id] = rel
		}
	}
	return h, nil
}

// addXattrs keeps file capabilities, the one extended attribute packages set.
func addXattrs(h *tar.Header, path string, info fs.FileInfo) error {
	const capability = "security.capability"
	if !info.Mode().IsRegular() {
		return nil
	}
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr(path, capability, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: read %s: %w", path, capability, err)
	}
	h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: string(buf[:n])}
	return nil
}

// under matches a path that is one of dirs or below it.
func under(rel string, dirs ...string) bool {
	for _, d := range dirs {
		if rel == d || strings.HasPrefix(rel, d+"/") {
			return true
		}
	}
	return false
}
