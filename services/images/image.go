package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/gantryhq/gantry/internal/attest"
)

// Image is what a list says of an image.
type Image struct {
	Repository string   `json:"repository"` // without the registry
	Tags       []string `json:"tags,omitempty"`
	Digest     string   `json:"digest"`
	// Manifest is the image of this machine's platform, where Digest is a list for several.
	Manifest string     `json:"manifest,omitempty"`
	Platform string     `json:"platform,omitempty"` // linux/amd64
	Created  *time.Time `json:"created,omitempty"`
	Size     int64      `json:"sizeBytes"` // of the layers, compressed
	// Base is the image that it is built on, as far as the registry has that and the asker may see it;
	// Declared is the one that its labels name.
	Base     *Base  `json:"base,omitempty"`
	Declared string `json:"declaredBase,omitempty"`

	// SignedBy are the names of the keys that signed it; Unknown counts signatures by others.
	SignedBy   []string    `json:"signedBy,omitempty"`
	Unknown    int         `json:"unknownSignatures,omitempty"`
	Provenance *Provenance `json:"provenance,omitempty"`
	SBOM       bool        `json:"sbom,omitempty"`
	Scan       *Scan       `json:"scan,omitempty"`
}

// Base is an image that another one is built on.
type Base struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest"`
	Layers     int    `json:"layers"` // how many of the image's layers are its
}

// Provenance is from what an image was made (https://slsa.dev/spec/v1.0/provenance), as one of the known keys says.
type Provenance struct {
	Source  string `json:"source,omitempty"` // the Git repository
	Commit  string `json:"commit,omitempty"`
	Build   string `json:"build,omitempty"` // PIPELINE/NUMBER of a pipeline
	Builder string `json:"builder,omitempty"`
}

// Scan counts what the newest scan by a known key found.
type Scan struct {
	attest.Severities
	Fixable  int       `json:"fixable"`
	Secrets  int       `json:"secrets"`
	Faults   int       `json:"faults"`
	Finished time.Time `json:"finished"`
	Scanner  string    `json:"scanner"`
	Database string    `json:"database,omitempty"` // digest, or version
}

// Details is an image with what only its own page shows.
type Details struct {
	Image
	Layers     []Layer         `json:"layers"`
	User       string          `json:"user,omitempty"`
	Command    []string        `json:"command,omitempty"` // entry point and its arguments
	Ports      []string        `json:"ports,omitempty"`
	Labels     json.RawMessage `json:"labels,omitempty"`
	Attached   []Attached      `json:"attached,omitempty"`
	Findings   []Finding       `json:"findings,omitempty"`
	Faults     []Fault         `json:"faultsFound,omitempty"`
	Packages   int             `json:"packages,omitempty"`
	Rejected   []string        `json:"rejected,omitempty"` // what is attached and is no statement about the image
	DerivedFor []Base          `json:"derived,omitempty"`  // images that are built on this one, Layers is how many they add
}

// Layer is one layer, the lowest first.
type Layer struct {
	Digest    string     `json:"digest"`
	Size      int64      `json:"sizeBytes"`
	CreatedBy string     `json:"createdBy,omitempty"`
	Created   *time.Time `json:"created,omitempty"`
}

// Attached is a signed statement about the image.
type Attached struct {
	Type string `json:"type"`
	Key  string `json:"key,omitempty"` // "" is one that is not known
}

// Finding is a vulnerability.
type Finding struct {
	ID        string  `json:"id"`
	Severity  string  `json:"severity"`
	Score     float64 `json:"score,omitempty"`
	Summary   string  `json:"summary,omitempty"`
	Package   string  `json:"package"`
	Installed string  `json:"installed"`
	Fixed     string  `json:"fixed,omitempty"`
	Path      string  `json:"path,omitempty"`
	URL       string  `json:"url,omitempty"`
}

// Fault is anything else that a scan found.
type Fault struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
	Path     string `json:"path,omitempty"`
}

// describe is what is remembered of an image: what never changes, and what was attached at a time.
type describe struct {
	image   Details
	diffIDs []string
	claimed time.Time // when what is attached was read
}

const (
	claimsFor  = 30 * time.Second // what is attached is read again after as long
	remembered = 2000             // images
)

// errNoImage is returned for what is in the registry and is no image: lists of packages, databases, charts.
var errNoImage = errors.New("it is no image")

// look describes an image. With details its findings are in it, which are not remembered.
func (s *Service) look(ctx context.Context, ref name.Digest, details bool) (*describe, error) {
	key := ref.Context().RepositoryStr() + "@" + ref.DigestStr()
	s.mu.Lock()
	found := s.looked[key]
	s.mu.Unlock()
	if found != nil && !details && s.cfg.Now().Sub(found.claimed) < claimsFor {
		return found, nil
	}
	d := &describe{}
	if found != nil {
		d.image, d.diffIDs = found.image, found.diffIDs // what is attached is replaced below
	} else if err := s.read(ctx, ref, d); err != nil {
		return nil, err
	}
	if err := s.readClaims(ctx, ref, &d.image); err != nil {
		return nil, err
	}
	d.claimed = s.cfg.Now()
	kept := *d
	kept.image.Findings, kept.image.Faults = nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.looked {
		if len(s.looked) < remembered {
			break
		}
		delete(s.looked, k) // any one: it is read again when it is asked for
	}
	s.looked[key] = &kept
	return d, nil
}

// read reads what never changes.
func (s *Service) read(ctx context.Context, ref name.Digest, d *describe) error {
	got, err := remote.Get(ref, append(s.options(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))...)
	if err != nil {
		return err
	}
	d.image.Repository, d.image.Digest = ref.Context().RepositoryStr(), ref.DigestStr()
	img, err := got.Image()
	if err != nil {
		return errNoImage // or an index without an image for this platform
	}
	m, err := img.Manifest()
	if err != nil {
		return fmt.Errorf("read manifest of %s: %w", ref, err)
	}
	if !m.Config.MediaType.IsConfig() {
		return errNoImage
	}
	if got.MediaType.IsIndex() {
		h, err := img.Digest()
		if err != nil {
			return err
		}
		d.image.Manifest = h.String()
	}
	c, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read configuration of %s: %w", ref, err)
	}
	return d.fill(m, c)
}

// Labels that name the base image (https://github.com/opencontainers/image-spec/blob/main/annotations.md).
const baseName = "org.opencontainers.image.base.name"

func (d *describe) fill(m *v1.Manifest, c *v1.ConfigFile) (err error) {
	i := &d.image
	i.Platform = c.OS + "/" + c.Architecture
	if !c.Created.IsZero() {
		i.Created = &c.Created.Time
	}
	for _, id := range c.RootFS.DiffIDs {
		d.diffIDs = append(d.diffIDs, id.String())
	}
	var made []v1.History // of layers, the lowest first
	for _, h := range c.History {
		if !h.EmptyLayer {
			made = append(made, h)
		}
	}
	for n, l := range m.Layers {
		layer := Layer{Digest: l.Digest.String(), Size: l.Size}
		if len(made) == len(m.Layers) {
			layer.CreatedBy = made[n].CreatedBy
			if t := made[n].Created.Time; !t.IsZero() {
				layer.Created = &t
			}
		}
		i.Size += l.Size
		i.Layers = append(i.Layers, layer)
	}
	i.User = c.Config.User
	i.Command = append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	for p := range c.Config.ExposedPorts {
		i.Ports = append(i.Ports, p)
	}
	if i.Declared = c.Config.Labels[baseName]; i.Declared == "" {
		i.Declared = m.Annotations[baseName]
	}
	if len(c.Config.Labels) > 0 {
		i.Labels, err = json.Marshal(c.Config.Labels)
	}
	return err
}

func (s *Service) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(s.cfg.Transport)}
}

// repository names one of the registry.
func (s *Service) repository(path string) (name.Repository, error) {
	return name.NewRepository(s.cfg.Registry+"/"+path, name.Insecure)
}

// namespaceOf is the namespace that a repository belongs to, and its name there: the registry's rule.
func namespaceOf(repository string) (namespace, rest string) {
	namespace, rest, ok := strings.Cut(repository, "/")
	if !ok {
		return "", repository
	}
	return namespace, rest
}

func gone(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}
