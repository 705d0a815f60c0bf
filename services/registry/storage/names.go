package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/go-digest"
)

// The errors that callers tell apart; they come wrapped with the name of what is meant.
var (
	ErrNameInvalid      = errors.New("invalid repository name")
	ErrNameUnknown      = errors.New("repository not known to this registry")
	ErrTagInvalid       = errors.New("invalid tag")
	ErrDigestInvalid    = errors.New("invalid digest")
	ErrBlobUnknown      = errors.New("blob not known to this repository")
	ErrManifestUnknown  = errors.New("manifest not known to this repository")
	ErrManifestInvalid  = errors.New("invalid manifest")
	ErrUploadUnknown    = errors.New("upload not known: it ended, was cancelled or was left for too long")
	ErrUploadBusy       = errors.New("another request is still sending to this upload")
	ErrRangeInvalid     = errors.New("the chunk does not begin where the upload ended")
	ErrSizeInvalid      = errors.New("the content does not have the announced size")
	errUnknownAlgorithm = fmt.Errorf("%w: only sha256 and sha512 are supported", ErrDigestInvalid)
)

// The grammar of the OCI Distribution Specification. No name that it allows leaves
// its directory or meets the directories of the layout, which begin with "_".
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	idGrammar   = regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

const maxNameLength = 255

// CheckName refuses what is no repository name.
func CheckName(name string) error {
	if len(name) > maxNameLength || !nameGrammar.MatchString(name) {
		return fmt.Errorf("%w %q: use lower-case letters and digits, separated by . _ - and /, at most %d of them", ErrNameInvalid, name, maxNameLength)
	}
	return nil
}

// CheckTag refuses what is no tag.
func CheckTag(tag string) error {
	if !tagGrammar.MatchString(tag) {
		return fmt.Errorf("%w %q: use letters, digits, . _ and -, at most 128 of them", ErrTagInvalid, tag)
	}
	return nil
}

// ParseDigest refuses what is no digest of an algorithm that is kept here.
func ParseDigest(text string) (digest.Digest, error) {
	d := digest.Digest(text)
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w %q: %w", ErrDigestInvalid, text, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", errUnknownAlgorithm
	}
	return d, nil
}

// The layout. Digests and names were checked before they come here.

func (s *Store) blobDir(d digest.Digest) string {
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (s *Store) blobPath(d digest.Digest) string { return filepath.Join(s.blobDir(d), "data") }

func (s *Store) repository(name string) string {
	return filepath.Join(s.root, "repositories", filepath.FromSlash(name))
}

func (s *Store) layersDir(name string) string {
	return filepath.Join(s.repository(name), "_layers")
}

func (s *Store) revisionsDir(name string) string {
	return filepath.Join(s.repository(name), "_manifests", "revisions")
}

func (s *Store) tagsDir(name string) string {
	return filepath.Join(s.repository(name), "_manifests", "tags")
}

func (s *Store) referrersDir(name string) string {
	return filepath.Join(s.repository(name), "_manifests", "referrers")
}

func (s *Store) uploadsDir(name string) string {
	return filepath.Join(s.repository(name), "_uploads")
}

// digestLink is the file below dir that says that a digest is there.
func digestLink(dir string, d digest.Digest) string {
	return filepath.Join(dir, d.Algorithm().String(), d.Encoded(), "link")
}

func (s *Store) layerLink(name string, d digest.Digest) string {
	return digestLink(s.layersDir(name), d)
}

func (s *Store) revisionLink(name string, d digest.Digest) string {
	return digestLink(s.revisionsDir(name), d)
}

func (s *Store) referrerLink(name string, subject, d digest.Digest) string {
	return digestLink(filepath.Join(s.referrersDir(name), subject.Algorithm().String(), subject.Encoded()), d)
}

func (s *Store) tagLink(name, tag string) string {
	return filepath.Join(s.tagsDir(name), tag, "current", "link")
}
