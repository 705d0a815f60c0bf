package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Store is an open directory of blobs, manifests and tags.
type Store struct {
	files files // where content is
	local *disk // where uploads are until they are whole, and content too without a bucket
	tmp   string
	id    string // of this one among those that use a bucket

	// ready is whether files has what Open makes; guarded by readyMu.
	ready   bool
	readyMu sync.Mutex

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
	spared map[digest.Digest]struct{}
	// pinned are, with how often, the blobs that are about to be linked. Guarded by sparedMu.
	pinned   map[digest.Digest]int
	sparedMu sync.Mutex
	// collecting is held by the one collection that runs.
	collecting sync.Mutex

	uploads   map[string]*Upload // guarded by uploadsMu
	uploadsMu sync.Mutex

	removed func(name string) // told of repositories that lost blobs; for who counts
}

// Open opens or creates the store in dir. What an interrupted process left half-written
// is removed. With a bucket, content is there and dir has only what is being uploaded; the
// bucket is first asked by [Store.Ready].
func Open(dir string, bucket *Bucket) (*Store, error) {
	s := &Store{
		local: &disk{root: filepath.Join(dir, "docker", "registry", "v2")}, id: rand.Text(), seed: maphash.MakeSeed(),
		uploads: map[string]*Upload{}, pinned: map[digest.Digest]int{},
	}
	s.tmp = s.local.at("tmp")
	if err := os.RemoveAll(s.tmp); err != nil {
		return nil, err
	}
	for _, d := range []string{s.tmp, s.local.at("blobs"), s.local.at("repositories")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if bucket != nil {
		s.files = bucket
		return s, nil
	}
	s.files = s.local
	return s, s.Ready()
}

// Ready is nil when content can be read and written: at once on a disk, when the bucket
// has been reached otherwise. Calling it again is cheap.
func (s *Store) Ready() error {
	s.readyMu.Lock()
	defer s.readyMu.Unlock()
	if s.ready {
		return nil
	}
	if err := s.indexReferrers(); err != nil {
		return fmt.Errorf("index referrers: %w", err)
	}
	if !s.OnDisk() {
		note, err := s.temporary([]byte(s.id))
		if err == nil {
			err = s.files.place(note, owner)
		}
		if err != nil {
			return err
		}
	}
	s.ready = true
	return nil
}

// owner is the object that names the store that has used a bucket last.
const owner = "gantry-owner"

// owned is an error when another store has begun to use the bucket: collections of the
// one would not know of pushes to the other.
func (s *Store) owned() error {
	if s.OnDisk() {
		return nil
	}
	id, err := s.files.read(owner)
	if err == nil && string(id) != s.id {
		err = fmt.Errorf("another registry has begun to use %v: give each a prefix of its own, and end this one if it was replaced", s.files)
	}
	return err
}

// OnDisk is whether content is in files of this machine.
func (s *Store) OnDisk() bool { return s.files == files(s.local) }

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

// pin keeps collections from removing a blob until it is released.
func (s *Store) pin(d digest.Digest) (release func()) {
	s.sparedMu.Lock() // whoever removes it now has done so when it is free
	defer s.sparedMu.Unlock()
	s.pinned[d]++
	return func() {
		s.sparedMu.Lock()
		defer s.sparedMu.Unlock()
		if s.pinned[d]--; s.pinned[d] == 0 {
			delete(s.pinned, d)
		}
	}
}

// Repositories calls yield for each repository: for what has, or had since the last
// collection, blobs, manifests or uploads.
func (s *Store) Repositories(yield func(name string) error) error {
	return walkRepositories(s.files, "", yield)
}

func walkRepositories(f files, name string, yield func(string) error) error {
	children, err := f.children(repositoryDir(name))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(children, isPart) {
		if err := yield(name); err != nil {
			return err
		}
	}
	for _, c := range children {
		if isPart(c) {
			continue
		}
		if err := walkRepositories(f, path.Join(name, c), yield); err != nil {
			return err
		}
	}
	return nil
}

// isPart is whether a directory is one of the layout's in a repository.
func isPart(name string) bool { return strings.HasPrefix(name, "_") }

// HasManifests is whether anything was ever pushed to a repository and is still there.
func (s *Store) HasManifests(name string) bool {
	found := errors.New("found")
	err := s.digestsBelow(revisionsDir(name), func(digest.Digest, time.Time) error { return found })
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
	count := func(d digest.Digest, _ time.Time) error {
		i, err := s.files.stat(blobPath(d))
		if err == nil {
			add(d, i.size)
		}
		if notExist(err) {
			return nil
		}
		return err
	}
	return errors.Join(s.digestsBelow(layersDir(name), count), s.digestsBelow(revisionsDir(name), count))
}

// temporary writes content to a file of the local disk, to be placed.
func (s *Store) temporary(content []byte) (path string, err error) {
	f, err := os.CreateTemp(s.tmp, "")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644)); err == nil && s.OnDisk() {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}
