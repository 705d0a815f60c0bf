package storage

import (
	"errors"
	"fmt"
	"path"
	"strings"

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

const maxNameLength = 255

// CheckName refuses what is no repository name.
func CheckName(name string) error {
	if len(name) > maxNameLength || !isName(name) {
		return fmt.Errorf("%w %q: use lower-case letters and digits, separated by . _ - and /, at most %d of them", ErrNameInvalid, name, maxNameLength)
	}
	return nil
}

// isName follows the grammar of the OCI Distribution Specification. No name that it allows
// leaves its directory or meets the directories of the layout, which begin with "_".
func isName(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if !isNamePart(part) {
			return false
		}
	}
	return true
}

// isNamePart is whether lower-case letters and digits are separated by ".", "_", "__" or any
// number of "-".
func isNamePart(part string) bool {
	separator := "" // since the last letter or digit
	for i := range len(part) {
		c := part[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			ok := separator == "" || separator == "." || separator == "_" || separator == "__" || strings.Trim(separator, "-") == ""
			if !ok || i == len(separator) && i > 0 {
				return false // between others, or at the begin
			}
			separator = ""
			continue
		}
		separator += string(rune(c))
	}
	return part != "" && separator == ""
}

// isTag follows the grammar too: a word that does not begin with a separator.
func isTag(tag string) bool {
	for i := range len(tag) {
		switch c := tag[i]; {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_':
		case (c == '.' || c == '-') && i > 0:
		default:
			return false
		}
	}
	return tag != "" && len(tag) <= 128
}

// isID is whether an upload may be called so: as UUIDs are written.
func isID(id string) bool {
	for i := range len(id) {
		c := id[i]
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(id) == 36
}

// CheckTag refuses what is no tag.
func CheckTag(tag string) error {
	if !isTag(tag) {
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

// The layout: paths of files. Digests and names were checked before they come here.

func blobPath(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

func repositoryDir(name string) string { return path.Join("repositories", name) }

func layersDir(name string) string { return path.Join(repositoryDir(name), "_layers") }

func revisionsDir(name string) string { return path.Join(repositoryDir(name), "_manifests/revisions") }

func tagsDir(name string) string { return path.Join(repositoryDir(name), "_manifests/tags") }

func uploadsDir(name string) string { return path.Join(repositoryDir(name), "_uploads") }

// referrersDir has a link for each manifest whose subject is a digest.
func referrersDir(name string, subject digest.Digest) string {
	return path.Join(repositoryDir(name), "_manifests/referrers", subject.Algorithm().String(), subject.Encoded())
}

// digestLink is the file below dir that says that a digest is there.
func digestLink(dir string, d digest.Digest) string {
	return path.Join(dir, d.Algorithm().String(), d.Encoded(), "link")
}

func layerLink(name string, d digest.Digest) string { return digestLink(layersDir(name), d) }

func revisionLink(name string, d digest.Digest) string { return digestLink(revisionsDir(name), d) }

func referrerLink(name string, subject, d digest.Digest) string {
	return digestLink(referrersDir(name, subject), d)
}

// currentLink is below the directory of a tag.
const currentLink = "current/link"

func tagLink(name, tag string) string { return path.Join(tagsDir(name), tag, currentLink) }
