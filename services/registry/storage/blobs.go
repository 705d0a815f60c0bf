package storage

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
)

// Blob opens a blob of a repository. It stays readable when the blob is removed.
func (s *Store) Blob(name string, d digest.Digest) (Content, error) {
	if err := s.blobKnown(name, d); err != nil {
		return nil, err
	}
	c, err := s.files.open(blobPath(d))
	if notExist(err) {
		return nil, unknownBlob(name, d)
	}
	return c, err
}

func unknownBlob(name string, d digest.Digest) error {
	return fmt.Errorf("%w: %s@%s", ErrBlobUnknown, name, d)
}

// blobKnown is nil when a repository has a link to a blob.
func (s *Store) blobKnown(name string, d digest.Digest) error {
	known, err := s.has(layerLink(name, d))
	if err == nil && !known {
		err = unknownBlob(name, d)
	}
	return err
}

// StatBlob returns the size of a blob of a repository. As a client that hears that
// it is there does not send it again, it is then kept as if it had just been pushed.
func (s *Store) StatBlob(name string, d digest.Digest) (int64, error) {
	lock := s.lock(name)
	lock.RLock()
	defer lock.RUnlock()
	size, err := s.BlobSize(name, d)
	if err == nil {
		_ = s.files.link(layerLink(name, d), d) // at worst it is sent again
	}
	return size, err
}

// BlobSize returns the size of a blob of a repository.
func (s *Store) BlobSize(name string, d digest.Digest) (int64, error) {
	if err := s.blobKnown(name, d); err != nil {
		return 0, err
	}
	i, err := s.files.stat(blobPath(d))
	if notExist(err) {
		return 0, unknownBlob(name, d)
	}
	return i.size, err
}

// HasBlob is whether a repository has a blob.
func (s *Store) HasBlob(name string, d digest.Digest) (bool, error) {
	_, err := s.BlobSize(name, d)
	if errors.Is(err, ErrBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}

// Mount makes a blob of one repository one of another, without a copy.
func (s *Store) Mount(from, to string, d digest.Digest) error {
	lock := s.lock(to)
	lock.RLock()
	defer lock.RUnlock()
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	if _, err := s.BlobSize(from, d); err != nil {
		return err
	}
	s.linked(d)
	return s.files.link(layerLink(to, d), d)
}

// DeleteBlob takes a blob out of a repository.
func (s *Store) DeleteBlob(name string, d digest.Digest) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	if err := s.blobKnown(name, d); err != nil {
		return err
	}
	if err := s.files.remove(layerLink(name, d)); err != nil {
		return err
	}
	s.tellRemoval(name)
	return nil
}

// File returns the path of the local file of a blob or manifest of a repository; there is
// none when content is in a bucket. The file never changes; it may be removed at any time.
func (s *Store) File(name string, d digest.Digest) (path string, ok bool) {
	if !s.OnDisk() {
		return "", false
	}
	for _, link := range []string{layerLink(name, d), revisionLink(name, d), ""} {
		if link == "" {
			return "", false
		}
		if known, err := s.has(link); err == nil && known {
			break
		}
	}
	known, err := s.has(blobPath(d))
	return s.local.at(blobPath(d)), err == nil && known
}

// commit makes the whole and checked content in the local file at path a blob of a
// repository. The file is gone afterwards.
func (s *Store) commit(name, path string, d digest.Digest) error {
	defer s.pin(d)()
	if err := s.placeBlob(path, d); err != nil {
		return err
	}
	lock := s.lock(name)
	lock.RLock()
	defer lock.RUnlock()
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	s.linked(d)
	return s.files.link(layerLink(name, d), d)
}

// placeBlob moves content to where blobs are, or removes it when it is there already.
// The caller has pinned it.
func (s *Store) placeBlob(local string, d digest.Digest) error {
	here, err := s.has(blobPath(d))
	if err != nil {
		return err
	}
	if here { // and kept, as all that is there
		return os.Remove(local)
	}
	if s.OnDisk() {
		if err := syncFile(local); err != nil {
			return fmt.Errorf("write to disk: %w", err)
		}
	}
	return s.files.place(local, blobPath(d))
}
