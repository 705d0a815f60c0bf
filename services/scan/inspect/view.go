package inspect

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// view is the file system that a detector sees: the file it reads, and of the rest
// what names the distribution. Links do not exist in it.
type view struct {
	scan *scan
	name string
	info os.FileInfo
	body *body
}

func (v *view) Open(name string) (fs.File, error) {
	if name == v.name {
		return &viewFile{SectionReader: v.body.reader(), info: v.info}, nil
	}
	if f := v.scan.tree[name]; f != nil && f.content != nil {
		r := bytes.NewReader(f.content)
		return &viewFile{SectionReader: io.NewSectionReader(r, 0, r.Size()), info: smallFile{name, r.Size()}}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Stat also knows "etc", by which detectors tell that this is a Linux system.
func (v *view) Stat(name string) (fs.FileInfo, error) {
	if name == "etc" {
		return directory("etc"), nil
	}
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

func (v *view) ReadDir(name string) ([]fs.DirEntry, error) {
	return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.ErrUnsupported}
}

type viewFile struct {
	*io.SectionReader
	info fs.FileInfo
}

func (f *viewFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *viewFile) Close() error               { return nil }

type smallFile struct {
	name string
	size int64
}

func (f smallFile) Name() string     { return f.name }
func (f smallFile) Size() int64      { return f.size }
func (smallFile) Mode() fs.FileMode  { return 0o644 }
func (smallFile) ModTime() time.Time { return time.Time{} }
func (smallFile) IsDir() bool        { return false }
func (smallFile) Sys() any           { return nil }

type directory string

func (d directory) Name() string     { return string(d) }
func (directory) Size() int64        { return 0 }
func (directory) Mode() fs.FileMode  { return fs.ModeDir | 0o755 }
func (directory) ModTime() time.Time { return time.Time{} }
func (directory) IsDir() bool        { return true }
func (directory) Sys() any           { return nil }
