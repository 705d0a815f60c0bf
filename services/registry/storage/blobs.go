package storage

import (
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// Blob opens a blob of a repository. The file stays readable when the blob is removed.
func (s *Store) Blob(name string, d digest.Digest) (*os.File, error) {
	if !exists(s.layerLink(name, d)) {
		return nil, fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
	}
	f, err := os.Open(s.blobPath(d))
	if notExist(err) {
		return nil, fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
	}
	return f, err
}

// StatBlob returns the size of a blob of a repository. As a client that hears that
// it is there does not send it again, it is then kept as if it had just been pushed.
func (s *Store) StatBlob(name string, d digest.Digest) (int64, error) {
	lock := s.lock(name)
	lock.RLock()
	defer lock.RUnlock()
	link := s.layerLink(name, d)
	if !exists(link) {
		return 0, fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
	}
	size, err := s.size(d)
	if notExist(err) {
		return 0, fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
	}
	now := time.Now()
	_ = os.Chtimes(link, now, now) // at worst it is sent again
	return size, err
}

func (s *Store) size(d digest.Digest) (int64, error) {
	info, err := os.Stat(s.blobPath(d))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// HasBlob is whether a repository has a blob.
func (s *Store) HasBlob(name string, d digest.Digest) bool {
	return exists(s.layerLink(name, d)) && exists(s.blobPath(d))
}

// Mount makes a blob of one repository one of another, without a copy.
func (s *Store) Mount(from, to string, d digest.Digest) error {
	lock := s.lock(to)
	lock.RLock()
	defer lock.RUnlock()
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	if !s.HasBlob(from, d) {
		return fmt.Errorf("%w: %s@%s", ErrBlobUnknown, from, d)
	}
	s.linked(d)
	return s.link(s.layerLink(to, d), d)
}

// DeleteBlob takes a blob out of a repository.
func (s *Store) DeleteBlob(name string, d digest.Digest) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	link := s.layerLink(name, d)
	if !exists(link) {
		return fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
	}
	if err := s.removeLink(link); err != nil {
		return err
	}
	s.tellRemoval(name)
	return nil
}

// File returns the path of the file of a blob or manifest of a repository. The file
// never changes; it may be removed at any time.
func (s *Store) File(name string, d digest.Digest) (path string, ok bool) {
	if !exists(s.layerLink(name, d)) && !exists(s.revisionLink(name, d)) {
		return "", false
	}
	path = s.blobPath(d)
	return path, exists(path)
}

// commit makes the whole and checked content in the file at path a blob of a
// repository. The file is gone afterwards.
func (s *Store) commit(name, path string, d digest.Digest) error {
	lock := s.lock(name)
	lock.RLock()
	defer lock.RUnlock()
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	s.linked(d)
	if err := s.placeBlob(path, d); err != nil {
		return err
	}
	return s.link(s.layerLink(name, d), d)
}

// placeBlob moves content to where blobs are, or removes it when it is there already.
// The caller holds sweeping.
func (s *Store) placeBlob(path string, d digest.Digest) error {
	if exists(s.blobPath(d)) {
		return os.Remove(path)
	}
	return s.place(path, s.blobPath(d))
}
