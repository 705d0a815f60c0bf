package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MissingError says which blob a manifest needs that its repository does not have.
type MissingError struct {
	Digest digest.Digest
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("the manifest needs %s, which its repository does not have: push it first", e.Digest)
}

// ReadManifest returns a manifest's bytes and media type.
func (s *Store) ReadManifest(name string, d digest.Digest) (raw []byte, mediaType string, err error) {
	if err := s.manifestKnown(name, d); err != nil {
		return nil, "", err
	}
	raw, err = s.files.read(blobPath(d))
	if notExist(err) {
		return nil, "", unknownManifest(name, d)
	}
	if err != nil {
		return nil, "", err
	}
	mediaType, err = mediaTypeOf(raw)
	return raw, mediaType, err
}

func unknownManifest(name string, d digest.Digest) error {
	return fmt.Errorf("%w: %s@%s", ErrManifestUnknown, name, d)
}

// manifestKnown is nil when a repository has a link to a manifest.
func (s *Store) manifestKnown(name string, d digest.Digest) error {
	known, err := s.has(revisionLink(name, d))
	if err == nil && !known {
		err = unknownManifest(name, d)
	}
	return err
}

// Manifest returns a manifest.
func (s *Store) Manifest(name string, d digest.Digest) (*Manifest, error) {
	raw, mediaType, err := s.ReadManifest(name, d)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(raw, mediaType, d.Algorithm())
	if err != nil {
		return nil, fmt.Errorf("%s@%s: %w", name, d, err)
	}
	return m, nil
}

// PutOptions say how a manifest is kept.
type PutOptions struct {
	Tags []string
	// Retag is asked before a tag that names another manifest is moved; nil allows it.
	// It must be quick.
	Retag func(tag string, from digest.Digest) error
	// Sparse accepts an image without its blobs, as a cache has it that gets them when
	// they are asked for.
	Sparse bool
}

// PutManifest keeps a manifest, under tags. It is on disk, with all that it needs of
// this store, when the call returns. A blob that is missing is a [*MissingError].
func (s *Store) PutManifest(name string, m *Manifest, opt PutOptions) (err error) {
	if !opt.Sparse { // before anything is written; once more below
		if err := s.complete(name, m); err != nil {
			return err
		}
	}
	var temporary []string
	defer func() {
		for _, path := range temporary {
			if removeErr := os.Remove(path); !notExist(removeErr) {
				err = errors.Join(err, removeErr)
			}
		}
	}()
	write := func(content []byte) (string, error) {
		path, err := s.temporary(content)
		if err == nil {
			temporary = append(temporary, path)
		}
		return path, err
	}
	blob, err := write(m.Raw)
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	pointers := map[string]string{}
	for _, tag := range opt.Tags {
		if pointers[tag], err = write([]byte(m.Digest)); err != nil {
			return fmt.Errorf("write tag: %w", err)
		}
	}
	defer s.pin(m.Digest)()
	if err := s.placeBlob(blob, m.Digest); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	if err := s.putManifest(name, m, pointers, opt); err != nil {
		return err
	}
	return s.files.sync()
}

func (s *Store) putManifest(name string, m *Manifest, pointers map[string]string, opt PutOptions) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	if !opt.Sparse {
		if err := s.complete(name, m); err != nil {
			return err
		}
	}
	for tag := range pointers {
		from, err := s.Tag(name, tag)
		if err == nil && from != m.Digest && opt.Retag != nil {
			err = opt.Retag(tag, from)
		}
		if err != nil && !errors.Is(err, ErrManifestUnknown) {
			return err
		}
	}
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	s.linked(m.Digest)
	if m.Subject != nil {
		if err := s.files.link(referrerLink(name, m.Subject.Digest, m.Digest), m.Digest); err != nil {
			return fmt.Errorf("keep referrer: %w", err)
		}
	}
	if err := s.files.link(revisionLink(name, m.Digest), m.Digest); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	for tag, pointer := range pointers {
		if err := s.files.place(pointer, tagLink(name, tag)); err != nil {
			return fmt.Errorf("keep tag: %w", err)
		}
	}
	return nil
}

// complete refuses an image whose blobs are not here as it describes them. An index
// may list images that are not here: that is what a mirror of one platform looks like.
func (s *Store) complete(name string, m *Manifest) error {
	if m.IsIndex() {
		return nil
	}
	for i, d := range m.References() {
		size, err := s.BlobSize(name, d.Digest)
		if errors.Is(err, ErrBlobUnknown) {
			if i > 0 && elsewhere(d) {
				continue
			}
			return &MissingError{d.Digest}
		}
		if err != nil {
			return err
		}
		if size != d.Size {
			return fmt.Errorf("%w: %s has %d bytes, not %d", ErrManifestInvalid, d.Digest, size, d.Size)
		}
	}
	return nil
}

// Tag returns what a tag names.
func (s *Store) Tag(name, tag string) (digest.Digest, error) {
	text, err := s.files.read(tagLink(name, tag))
	if notExist(err) {
		return "", unknownTag(name, tag)
	}
	if err != nil {
		return "", err
	}
	d, err := ParseDigest(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("read tag %s:%s: %w", name, tag, err)
	}
	return d, nil
}

func unknownTag(name, tag string) error {
	return fmt.Errorf("%w: %s:%s", ErrManifestUnknown, name, tag)
}

// TagTime returns when a tag was pushed last.
func (s *Store) TagTime(name, tag string) (time.Time, error) {
	i, err := s.files.stat(tagLink(name, tag))
	if notExist(err) {
		return time.Time{}, unknownTag(name, tag)
	}
	return i.modified, err
}

// HasManifest is whether a repository has a manifest.
func (s *Store) HasManifest(name string, d digest.Digest) (bool, error) {
	known, err := s.has(revisionLink(name, d))
	if !known || err != nil {
		return false, err
	}
	return s.has(blobPath(d))
}

// Tagged is a tag with what it names and since when.
type Tagged struct {
	Tag    string
	Digest digest.Digest
	Pushed time.Time
}

// TagsWithTimes lists a repository's tags, sorted by name.
func (s *Store) TagsWithTimes(name string) ([]Tagged, error) {
	var all []Tagged
	err := s.files.each(tagsDir(name), currentLink, func(tag string, i info) error {
		d, err := s.Tag(name, tag)
		if err == nil {
			all = append(all, Tagged{tag, d, i.modified})
		}
		if errors.Is(err, ErrManifestUnknown) {
			return nil
		}
		return err
	})
	return all, err
}

// Tags lists a repository's tags, sorted.
func (s *Store) Tags(name string) ([]string, error) {
	tags := []string{}
	err := s.files.each(tagsDir(name), currentLink, func(tag string, _ info) error {
		if CheckTag(tag) == nil {
			tags = append(tags, tag)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 && !s.HasManifests(name) {
		return nil, fmt.Errorf("%w: %s", ErrNameUnknown, name)
	}
	return tags, nil
}

// DeleteTag takes a tag away; what it named stays until it is collected. When is is not
// "", the tag must name it.
func (s *Store) DeleteTag(name, tag string, is digest.Digest) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	if _, err := s.TagTime(name, tag); err != nil {
		return err
	}
	if d, err := s.Tag(name, tag); is != "" && err == nil && d != is {
		return fmt.Errorf("%w: %s:%s was moved", ErrManifestUnknown, name, tag)
	}
	return s.deleteTag(name, tag)
}

func (s *Store) deleteTag(name, tag string) error {
	return s.files.removeAll(path.Join(tagsDir(name), tag))
}

// DeleteManifest takes a manifest and all its tags away. allow is asked for each tag;
// nil allows all.
func (s *Store) DeleteManifest(name string, d digest.Digest, allow func(tag string) error) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	if err := s.manifestKnown(name, d); err != nil {
		return err
	}
	tags, err := s.tagsOf(name)
	if err != nil {
		return err
	}
	for _, tag := range tags[d] {
		if allow == nil {
			break
		}
		if err := allow(tag); err != nil {
			return err
		}
	}
	for _, tag := range tags[d] {
		if err := s.deleteTag(name, tag); err != nil {
			return err
		}
	}
	return s.deleteManifest(name, d)
}

// deleteManifest removes the link of a manifest without tags. The caller holds the
// repository's lock.
func (s *Store) deleteManifest(name string, d digest.Digest) error {
	m, err := s.Manifest(name, d)
	if err == nil && m.Subject != nil {
		err = s.files.remove(referrerLink(name, m.Subject.Digest, d))
	}
	if err != nil && !errors.Is(err, ErrManifestInvalid) && !errors.Is(err, ErrManifestUnknown) {
		return err
	}
	if err := s.files.remove(revisionLink(name, d)); err != nil {
		return err
	}
	s.tellRemoval(name)
	return nil
}

// tagsOf lists the tags of each manifest.
func (s *Store) tagsOf(name string) (map[digest.Digest][]string, error) {
	tags := map[digest.Digest][]string{}
	err := s.files.each(tagsDir(name), currentLink, func(tag string, _ info) error {
		d, err := s.Tag(name, tag)
		if err == nil {
			tags[d] = append(tags[d], tag)
		}
		if errors.Is(err, ErrManifestUnknown) {
			return nil
		}
		return err
	})
	return tags, err
}

// Referrers describes the manifests whose subject is a digest, sorted by their own.
func (s *Store) Referrers(name string, subject digest.Digest) ([]v1.Descriptor, error) {
	var all []v1.Descriptor
	err := s.digestsBelow(referrersDir(name, subject), func(d digest.Digest, _ time.Time) error {
		m, err := s.Manifest(name, d)
		if errors.Is(err, ErrManifestUnknown) {
			return nil // interrupted, or deleted just now
		}
		if err != nil {
			return err
		}
		all = append(all, m.Descriptor())
		return nil
	})
	return all, err
}

// indexed is the file that says that every manifest with a subject is among its
// subject's referrers: registries that do not know of referrers fill none in.
const indexed = "referrers-indexed"

func (s *Store) indexReferrers() error {
	done, err := s.has(indexed)
	if done || err != nil {
		return err
	}
	err = s.Repositories(func(name string) error {
		return s.digestsBelow(revisionsDir(name), func(d digest.Digest, _ time.Time) error {
			m, err := s.Manifest(name, d)
			if errors.Is(err, ErrManifestUnknown) || errors.Is(err, ErrManifestInvalid) {
				return nil
			}
			if err != nil || m.Subject == nil {
				return err
			}
			return s.files.link(referrerLink(name, m.Subject.Digest, d), d)
		})
	})
	if err == nil {
		err = s.files.sync()
	}
	if err != nil {
		return err
	}
	mark, err := s.temporary(nil)
	if err != nil {
		return err
	}
	return s.files.place(mark, indexed)
}
