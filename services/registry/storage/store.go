package storage

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Store is an open directory of blobs, manifests and tags.
type Store struct {
	root string // DIR/docker/registry/v2
	tmp  string
	dirs directories

	// locks are held, by the hash of a repository's name, exclusively while its
	// manifests and tags change or its unneeded files are found and removed, and
	// shared while a blob is linked or said to be there.
	locks [64]sync.RWMutex
	seed  maphash.Seed

	// sweeping is held exclusively while blobs without a link are removed, and shared
	// from where a blob is known to be there until it is linked. It is taken after locks.
	sweeping sync.RWMutex
	// spared are the blobs that were linked since a collection began; nil while none
	// runs. Guarded by sparedMu.
	spared   map[digest.Digest]struct{}
	sparedMu sync.Mutex
	// collecting is held by the one collection that runs.
	collecting sync.Mutex

	uploads   map[string]*Upload // guarded by uploadsMu
	uploadsMu sync.Mutex

	removed func(name string) // told of repositories that lost blobs; for who counts
}

// Open opens or creates the store in dir. What an interrupted process left half-written
// is removed.
func Open(dir string) (*Store, error) {
	s := &Store{
		root: filepath.Join(dir, "docker", "registry", "v2"), seed: maphash.MakeSeed(),
		uploads: map[string]*Upload{},
	}
	s.tmp = filepath.Join(s.root, "tmp")
	if err := os.RemoveAll(s.tmp); err != nil {
		return nil, err
	}
	for _, d := range []string{s.tmp, filepath.Join(s.root, "blobs"), filepath.Join(s.root, "repositories")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := s.indexReferrers(); err != nil {
		return nil, fmt.Errorf("index referrers: %w", err)
	}
	return s, nil
}

// lock is the lock of a repository.
func (s *Store) lock(name string) *sync.RWMutex {
	return &s.locks[maphash.String(s.seed, name)%uint64(len(s.locks))]
}

// linked keeps a running collection from removing a blob. The caller holds sweeping.
func (s *Store) linked(d digest.Digest) {
	s.sparedMu.Lock()
	defer s.sparedMu.Unlock()
	if s.spared != nil {
		s.spared[d] = struct{}{}
	}
}

// Repositories calls yield for each repository: for what has, or had since the last
// collection, blobs, manifests or uploads.
func (s *Store) Repositories(yield func(name string) error) error {
	root := filepath.Join(s.root, "repositories")
	return walkRepositories(root, "", yield)
}

func walkRepositories(root, name string, yield func(string) error) error {
	entries, err := readDir(filepath.Join(root, name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "_") {
			if err := yield(filepath.ToSlash(name)); err != nil {
				return err
			}
			break
		}
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), "_") {
			continue
		}
		if err := walkRepositories(root, filepath.Join(name, e.Name()), yield); err != nil {
			return err
		}
	}
	return nil
}

// HasManifests is whether anything was ever pushed to a repository and is still there.
func (s *Store) HasManifests(name string) bool {
	found := errors.New("found")
	err := digestsBelow(s.revisionsDir(name), func(digest.Digest, string) error { return found })
	return errors.Is(err, found)
}

// OnRemoval has fn called with the name of each repository after blobs or manifests
// left it. It must be set before the store is used.
func (s *Store) OnRemoval(fn func(name string)) { s.removed = fn }

func (s *Store) tellRemoval(name string) {
	if s.removed != nil {
		s.removed(name)
	}
}

// Usage returns the bytes of all blobs and manifests of a repository, by digest.
func (s *Store) Usage(name string, add func(d digest.Digest, bytes int64)) error {
	count := func(d digest.Digest, _ string) error {
		info, err := os.Stat(s.blobPath(d))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		add(d, info.Size())
		return nil
	}
	return errors.Join(digestsBelow(s.layersDir(name), count), digestsBelow(s.revisionsDir(name), count))
}
