package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's manifests, which have the same structure as OCI's.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Manifest is an image manifest or an index, of OCI or of Docker.
type Manifest struct {
	Raw       []byte
	Digest    digest.Digest
	MediaType string

	Config    *v1.Descriptor  // of an image
	Layers    []v1.Descriptor // of an image
	Manifests []v1.Descriptor // of an index
	Subject   *v1.Descriptor  // what it says something about, or nil
	// ArtifactType is the manifest's, or the media type of its configuration.
	ArtifactType string
	Annotations  map[string]string
}

// document is the JSON of all four kinds.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *v1.Descriptor    `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Manifests     []v1.Descriptor   `json:"manifests"`
	Subject       *v1.Descriptor    `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// ParseManifest reads a manifest. contentType is what the client says that it is, or
// "". The digest is of the given algorithm.
func ParseManifest(raw []byte, contentType string, a digest.Algorithm) (*Manifest, error) {
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifestInvalid, err)
	}
	mediaType, err := doc.mediaType(contentType)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifestInvalid, err)
	}
	m := &Manifest{
		Raw: raw, Digest: a.FromBytes(raw), MediaType: mediaType, Config: doc.Config, Layers: doc.Layers,
		Manifests: doc.Manifests, Subject: doc.Subject, ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	if err := m.check(doc.SchemaVersion); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifestInvalid, err)
	}
	return m, nil
}

// mediaType is what the document says, else what the client says, else what its
// structure says.
func (doc *document) mediaType(contentType string) (string, error) {
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.TrimSpace(contentType)
	if doc.MediaType != "" && contentType != "" && contentType != doc.MediaType {
		return "", fmt.Errorf("it was sent as %q and says that it is %q", contentType, doc.MediaType)
	}
	known := []string{v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, DockerManifest, DockerList}
	for _, t := range []string{doc.MediaType, contentType} {
		if t == "" {
			continue
		}
		if !slices.Contains(known, t) {
			return "", fmt.Errorf("media type %q is not supported: only %s are", t, strings.Join(known, ", "))
		}
		return t, nil
	}
	if doc.Manifests != nil {
		return v1.MediaTypeImageIndex, nil
	}
	return v1.MediaTypeImageManifest, nil
}

func (m *Manifest) check(schema int) error {
	if schema != 2 {
		return fmt.Errorf("schemaVersion is %d, not 2", schema)
	}
	if m.IsIndex() {
		// A document that is an image to one client and an index to another could
		// hide one behind the other.
		if m.Config != nil || m.Layers != nil {
			return fmt.Errorf("an index has no configuration and no layers")
		}
	} else {
		if m.Manifests != nil {
			return fmt.Errorf("an image manifest has no manifests")
		}
		if m.Config == nil {
			return fmt.Errorf("it has no configuration")
		}
	}
	for _, d := range m.References() {
		if err := checkDescriptor(d); err != nil {
			return err
		}
	}
	if m.Subject != nil {
		return checkDescriptor(*m.Subject)
	}
	return nil
}

func checkDescriptor(d v1.Descriptor) error {
	if _, err := ParseDigest(d.Digest.String()); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has %d bytes", d.Digest, d.Size)
	}
	if d.Data != nil && (int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest) {
		return fmt.Errorf("the data field of %s is something else", d.Digest)
	}
	return nil
}

// IsIndex is whether it lists manifests rather than layers.
func (m *Manifest) IsIndex() bool {
	return m.MediaType == v1.MediaTypeImageIndex || m.MediaType == DockerList
}

// References are the descriptors of all that it consists of, without its subject.
func (m *Manifest) References() []v1.Descriptor {
	if m.IsIndex() {
		return m.Manifests
	}
	return append([]v1.Descriptor{*m.Config}, m.Layers...)
}

// Descriptor is how a list of referrers describes it.
func (m *Manifest) Descriptor() v1.Descriptor {
	return v1.Descriptor{
		MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
}

// elsewhere is whether clients get a layer from its URLs: then it need not be here.
func elsewhere(d v1.Descriptor) bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}

// mediaTypeOf tells the media type of a stored manifest.
func mediaTypeOf(raw []byte) (string, error) {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", err
	}
	switch {
	case doc.MediaType != "":
		return doc.MediaType, nil
	case doc.Manifests != nil && !bytes.Equal(doc.Manifests, []byte("null")):
		return v1.MediaTypeImageIndex, nil
	}
	return v1.MediaTypeImageManifest, nil
}
