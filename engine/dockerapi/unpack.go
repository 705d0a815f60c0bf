package dockerapi

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// unpackLimits bound what an archive may hold; 0 is no bound.
type unpackLimits struct {
	bytes int64
	files int
	plain bool // devices and pipes are left out: nothing builds from them
}

// unpack extracts an archive into a directory. Everything is resolved below it: a name or
// a link that leads outside is refused.
func unpack(r io.Reader, into *os.Root, limits unpackLimits) error {
	in := tar.NewReader(r)
	var bytes int64
	for files := 1; ; files++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // padding
			return err
		}
		if err != nil {
			return invalid("the archive is damaged: %v", err)
		}
		bytes += h.Size
		if limits.bytes > 0 && bytes > limits.bytes || limits.files > 0 && files > limits.files {
			return invalid("the archive holds more than %d files or %d MB: leave out what is not needed (.dockerignore)", limits.files, limits.bytes>>20)
		}
		if err := extract(in, h, into, limits); err != nil {
			return fullDisk(fmt.Errorf("unpack %s: %w", h.Name, err))
		}
	}
}

// diskIsFull is whether an error comes from a full disk; those of the build worker are
// texts.
func diskIsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || err != nil && strings.Contains(strings.ToLower(err.Error()), syscall.ENOSPC.Error())
}

// fullDisk says plainly that the disk is full.
func fullDisk(err error) error {
	if diskIsFull(err) {
		return fmt.Errorf("the disk is full: free space under the data directory, then try again: %w", err)
	}
	return err
}

func extract(in io.Reader, h *tar.Header, into *os.Root, limits unpackLimits) error {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == ".." || strings.HasPrefix(name, "../") {
		return invalid("the name leads out of the archive")
	}
	if name == "." {
		return nil
	}
	if dir := path.Dir(name); dir != "." {
		if err := into.MkdirAll(dir, 0o755); err != nil {
			return refuseEscape(err)
		}
	}
	mode := h.FileInfo().Mode()
	if old, err := into.Lstat(name); err == nil && !(old.IsDir() && h.Typeflag == tar.TypeDir) {
		if old.IsDir() {
			return invalid("cannot overwrite directory %q with non-directory %q", name, name)
		}
		if err := into.Remove(name); err != nil {
			return err
		}
	}
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		err = into.Mkdir(name, 0o755)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg:
		err = writeFile(into, name, in)
	case tar.TypeSymlink:
		err = into.Symlink(h.Linkname, name)
	case tar.TypeLink:
		err = into.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), name)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if limits.plain {
			return nil
		}
		return invalid("devices and pipes cannot be copied")
	default:
		return nil // remarks
	}
	if err != nil {
		return refuseEscape(err)
	}
	if h.Typeflag == tar.TypeLink {
		return nil // owner and mode are the file's
	}
	return restore(into, name, h, mode)
}

// refuseEscape tells that a link leads outside as what it is: the archive's fault.
func refuseEscape(err error) error {
	if strings.Contains(err.Error(), "escapes from parent") {
		return invalid("a link leads out of the directory: %v", err)
	}
	return err
}

func writeFile(into *os.Root, name string, in io.Reader) error {
	f, err := into.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = into.Remove(name) // half of it helps nobody, and the disk may be full
	}
	return err
}

// restore gives a file its owner, mode and time.
func restore(into *os.Root, name string, h *tar.Header, mode fs.FileMode) error {
	if err := into.Lchown(name, h.Uid, h.Gid); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := into.Chmod(name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	if h.ModTime.IsZero() {
		return nil
	}
	return into.Chtimes(name, h.ModTime, h.ModTime)
}

// decompressed reads an archive that may be compressed.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReader(r)
	magic, _ := in.Peek(4)
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, invalid("the archive is damaged: %v", err)
		}
		return z, nil
	case strings.HasPrefix(string(magic), "\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(in)
		if err != nil {
			return nil, invalid("the archive is damaged: %v", err)
		}
		return z.IOReadCloser(), nil
	case strings.HasPrefix(string(magic), "BZh"):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case strings.HasPrefix(string(magic), "\xfd7zX"):
		return nil, invalid("archives compressed with xz are not possible: use gzip or zstd")
	}
	return io.NopCloser(in), nil
}
