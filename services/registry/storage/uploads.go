package storage

import (
	"crypto/rand"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// bufferSize is what is read, hashed and written at once.
const bufferSize = 256 << 10

// writeEarly is how much is received before the disk is told to begin with it.
const writeEarly = 4 << 20

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Upload is content that is being received, in one or several requests. It survives
// a restart.
type Upload struct {
	ID   string
	name string
	s    *Store

	size atomic.Int64
	used atomic.Int64 // when it was used last, Unix nanoseconds

	mu        sync.Mutex // held by the request that sends
	ended     bool       // guarded by mu
	algorithm digest.Algorithm
	hash      hash.Hash // of the bytes so far; guarded by mu
}

// NewUpload begins an upload to a repository. Its content will be checked against a
// digest of the algorithm; naming it wrongly only costs time.
func (s *Store) NewUpload(name string, algorithm digest.Algorithm) (*Upload, error) {
	u := &Upload{ID: newID(), name: name, s: s, algorithm: algorithm, hash: algorithm.Hash()}
	lock := s.lock(name)
	lock.RLock()
	defer lock.RUnlock()
	if err := s.local.mkdir(u.dir()); err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	f, err := os.OpenFile(u.path(), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	u.touch()
	s.uploadsMu.Lock()
	defer s.uploadsMu.Unlock()
	s.uploads[u.ID] = u
	return u, nil
}

// Upload finds an upload that was begun in a repository.
func (s *Store) Upload(name, id string) (*Upload, error) {
	if !isID(id) {
		return nil, ErrUploadUnknown
	}
	s.uploadsMu.Lock()
	defer s.uploadsMu.Unlock()
	u := s.uploads[id]
	if u != nil && u.name == name {
		u.touch()
		return u, nil
	}
	if u != nil {
		return nil, ErrUploadUnknown
	}
	u = &Upload{ID: id, name: name, s: s}
	info, err := os.Stat(u.path())
	if notExist(err) {
		return nil, ErrUploadUnknown
	}
	if err != nil {
		return nil, err
	}
	u.size.Store(info.Size()) // what came before a restart is hashed when it is needed
	u.touch()
	s.uploads[id] = u
	return u, nil
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (u *Upload) dir() string  { return u.s.local.at(path.Join(uploadsDir(u.name), u.ID)) }
func (u *Upload) path() string { return filepath.Join(u.dir(), "data") }
func (u *Upload) touch()       { u.used.Store(time.Now().UnixNano()) }

// Size is how many bytes are here.
func (u *Upload) Size() int64 { return u.size.Load() }

// Append adds what r gives, all of it or nothing: after an error of r the upload is as
// before. at is where it must begin, or -1; length is how long it must be, or -1.
func (u *Upload) Append(r io.Reader, at, length int64) error {
	if !u.mu.TryLock() {
		return ErrUploadBusy
	}
	defer u.mu.Unlock()
	if u.ended {
		return ErrUploadUnknown
	}
	before := u.size.Load()
	if at >= 0 && at != before {
		return fmt.Errorf("%w: it has %d bytes, and the chunk begins at %d", ErrRangeInvalid, before, at)
	}
	if err := u.hashed(u.algorithm); err != nil {
		return err
	}
	state, err := u.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	f, err := os.OpenFile(u.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	n, err := u.receive(f, r)
	if err == nil && length >= 0 && n != length {
		err = fmt.Errorf("%w: %d bytes instead of %d", ErrSizeInvalid, n, length)
	}
	if err != nil {
		u.size.Store(before)
		return errors.Join(err, f.Truncate(before), f.Close(), u.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state))
	}
	return f.Close()
}

// receive copies r to f and into the hash.
func (u *Upload) receive(f *os.File, r io.Reader) (n int64, err error) {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	var unwritten int64
	for {
		got, err := r.Read(buffer[:])
		if got > 0 {
			u.hash.Write(buffer[:got])
			if _, err := f.Write(buffer[:got]); err != nil {
				return n, err
			}
			n += int64(got)
			u.size.Add(int64(got))
			if unwritten += int64(got); unwritten >= writeEarly {
				// The disk works while more arrives, not only when all is here. At worst it does not.
				_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
				unwritten = 0
			}
			u.touch()
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// hashed makes hash that of the bytes so far, by an algorithm. The caller holds mu.
func (u *Upload) hashed(a digest.Algorithm) error {
	if a == "" {
		a = digest.SHA256
	}
	if u.hash != nil && u.algorithm == a {
		return nil
	}
	u.algorithm, u.hash = a, a.Hash()
	f, err := os.Open(u.path())
	if err != nil {
		return fmt.Errorf("read upload: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(u.hash, f); err != nil {
		return fmt.Errorf("read upload: %w", err)
	}
	return nil
}

// Expect says of which algorithm the digest will be, before the first byte.
func (u *Upload) Expect(a digest.Algorithm) {
	if u.Size() == 0 && u.mu.TryLock() {
		u.algorithm, u.hash = a, a.Hash()
		u.mu.Unlock()
	}
}

// Commit ends the upload: its content becomes a blob of the repository when it matches
// the digest, else it is removed.
func (u *Upload) Commit(d digest.Digest) error {
	if !u.mu.TryLock() {
		return ErrUploadBusy
	}
	defer u.mu.Unlock()
	if u.ended {
		return ErrUploadUnknown
	}
	if err := u.hashed(d.Algorithm()); err != nil {
		return err
	}
	if got := digest.NewDigest(d.Algorithm(), u.hash); got != d {
		return errors.Join(fmt.Errorf("%w: the content is %s, not %s", ErrDigestInvalid, got, d), u.end())
	}
	if err := u.s.commit(u.name, u.path(), d); err != nil {
		return fmt.Errorf("keep blob: %w", err)
	}
	return u.end()
}

// Cancel ends the upload and removes its content.
func (u *Upload) Cancel() error {
	if !u.mu.TryLock() {
		return ErrUploadBusy
	}
	defer u.mu.Unlock()
	if u.ended {
		return ErrUploadUnknown
	}
	return u.end()
}

// end forgets the upload. The caller holds mu.
func (u *Upload) end() error {
	u.ended = true
	u.s.uploadsMu.Lock()
	delete(u.s.uploads, u.ID)
	u.s.uploadsMu.Unlock()
	return os.RemoveAll(u.dir())
}

// ExpireUploads ends uploads that nobody used for that long.
func (s *Store) ExpireUploads(unused time.Duration) error {
	limit := time.Now().Add(-unused)
	return walkRepositories(s.local, "", func(name string) error {
		ids, err := s.local.children(uploadsDir(name))
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := s.expireUpload(name, id, limit); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) expireUpload(name, id string, limit time.Time) error {
	s.uploadsMu.Lock()
	u := s.uploads[id]
	s.uploadsMu.Unlock()
	if u != nil {
		if time.Unix(0, u.used.Load()).After(limit) {
			return nil
		}
		if err := u.Cancel(); err != nil && !errors.Is(err, ErrUploadBusy) && !errors.Is(err, ErrUploadUnknown) {
			return err
		}
		return nil
	}
	dir := s.local.at(path.Join(uploadsDir(name), id))
	last := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	s.uploadsMu.Lock() // nobody finds it while it goes
	defer s.uploadsMu.Unlock()
	if s.uploads[id] != nil || last(dir).After(limit) || last(filepath.Join(dir, "data")).After(limit) {
		return nil
	}
	return os.RemoveAll(dir)
}
