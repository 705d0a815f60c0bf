package storage

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
)

// files keeps content under paths of the layout, which are relative and have slashes: a
// disk's files or a bucket's objects. What a method returned for is seen by all later
// calls; who calls makes sure that one path is changed by one at a time.
type files interface {
	// stat describes a file. [fs.ErrNotExist] is that there is none, here and below.
	stat(path string) (info, error)
	// open reads a file, which stays readable when it is removed.
	open(path string) (Content, error)
	read(path string) ([]byte, error)
	// link says at a path that a digest is there, now. It is kept when sync returns.
	link(path string, d digest.Digest) error
	// place makes the content of a file of the local disk, which is gone then, that of a
	// path, whole at any time. It is kept when sync returns; for a disk the content must
	// have been written to it.
	place(local, path string) error
	// remove removes a file, and the directory that it is alone in.
	remove(path string) error
	// removeAll removes what is below a directory.
	removeAll(dir string) error
	// children names the directories in a directory; one that is not there has none.
	children(dir string) ([]string, error)
	// each calls yield for each file DIR/NAME/LEAF, sorted by NAME.
	each(dir, leaf string, yield func(name string, i info) error) error
	// prune removes the directories of a repository that has no files any more.
	prune(repository string) error
	// sync returns when all that was changed before is kept whatever happens.
	sync() error
}

// info is what is known of a file.
type info struct {
	size     int64
	modified time.Time
}

// Content is a blob being read.
type Content interface {
	io.ReadSeekCloser
}

// has is whether there is a file.
func (s *Store) has(path string) (bool, error) {
	_, err := s.files.stat(path)
	if notExist(err) {
		return false, nil
	}
	return err == nil, err
}

// digestsBelow calls yield for each digest that has a link below dir, with the link's time.
func (s *Store) digestsBelow(dir string, yield func(d digest.Digest, linked time.Time) error) error {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		err := s.files.each(path.Join(dir, a.String()), "link", func(encoded string, i info) error {
			d := digest.NewDigestFromEncoded(a, encoded)
			if d.Validate() != nil {
				return nil // not ours
			}
			return yield(d, i.modified)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notExist is whether a file is not there, also because a part of its path is not.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
