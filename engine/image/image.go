package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one named image in the store.
type Image struct {
	Name      string        // full name: "docker.io/library/nginx:latest", "127.0.0.1:5000/cart@sha256:..."
	Digest    string        // what the name points at: manifest or index
	ID        string        // digest of the configuration: the same for the same content under any name
	Config    ocispec.Image // of this machine's platform
	Size      int64         // compressed bytes of this machine's platform
	UpdatedAt time.Time     // when the name last changed
	LastUsed  time.Time     // pull or mount, since the store was opened; else UpdatedAt

	target ocispec.Descriptor
}

// Repository is the name without tag and digest.
func (i *Image) Repository() string {
	named, err := reference.ParseNormalizedNamed(i.Name)
	if err != nil {
		return i.Name
	}
	return named.Name()
}

// RepoDigest is the digest-pinned name, what Kubernetes reports as imageID.
func (i *Image) RepoDigest() string { return i.Repository() + "@" + i.Digest }

func (i *Image) chainID() string { return identity.ChainID(i.Config.RootFS.DiffIDs).String() }

// Get finds an image by any name it has: as pulled, digest-pinned, or by a bare
// digest or ID ("sha256:..."). errors.Is(err, fs.ErrNotExist) when it is not here.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	ctx = s.context(ctx)
	if d, ok := parseDigest(ref); ok {
		return s.find(ctx, ref, func(i *Image) bool { return i.Digest == d.String() || i.ID == d.String() })
	}
	named, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	img, err := s.get(ctx, named.String())
	if pinned, ok := named.(reference.Canonical); ok && errdefs.IsNotFound(err) {
		return s.find(ctx, ref, func(i *Image) bool {
			return i.Digest == pinned.Digest().String() && i.Repository() == pinned.Name()
		})
	}
	if errdefs.IsNotFound(err) {
		return nil, notHere(ref)
	}
	return img, err
}

func notHere(ref string) error {
	return fmt.Errorf("image %q is not on this machine: %w", ref, fs.ErrNotExist)
}

func (s *Store) find(ctx context.Context, ref string, match func(*Image) bool) (*Image, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range all {
		if match(img) {
			return img, nil
		}
	}
	return nil, notHere(ref)
}

// get reads one record; the error is containerd's.
func (s *Store) get(ctx context.Context, name string) (*Image, error) {
	rec, err := s.images.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, rec)
}

// describe reads manifest and configuration of a record. What a digest stands for
// does not change, so they are read again only when the manifest's file is not
// the one that was read.
func (s *Store) describe(ctx context.Context, rec images.Image) (*Image, error) {
	known, ok := s.described.Load(rec.Target.Digest)
	file, err := os.Stat(s.blob(rec.Target.Digest))
	if !ok || err != nil || !known.(*description).from.same(file) {
		img, err := s.readImage(ctx, rec)
		if err != nil {
			return nil, err
		}
		known = &description{img, versionOf(file)}
		if file != nil {
			s.described.Store(rec.Target.Digest, known)
		}
	}
	img := *known.(*description).image
	img.Name, img.UpdatedAt, img.target = rec.Name, rec.UpdatedAt, rec.Target
	img.LastUsed = s.used.last(rec.Target.Digest, rec.UpdatedAt)
	return &img, nil
}

// description is what an image is under any name.
type description struct {
	image *Image
	from  fileVersion
}

// fileVersion tells a file from the one that was there before.
type fileVersion struct {
	size     int64
	modified time.Time
}

func versionOf(f fs.FileInfo) fileVersion {
	if f == nil {
		return fileVersion{}
	}
	return fileVersion{f.Size(), f.ModTime()}
}

func (v fileVersion) same(f fs.FileInfo) bool { return v == versionOf(f) }

// blob is the file of a piece of content, in the layout of containerd's store.
func (s *Store) blob(d digest.Digest) string {
	return filepath.Join(s.dir, "content", "blobs", d.Algorithm().String(), d.Encoded())
}

// readImage reads what does not depend on an image's name.
func (s *Store) readImage(ctx context.Context, rec images.Image) (*Image, error) {
	manifest, err := images.Manifest(ctx, s.content, rec.Target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("read manifest of image %q: %w", rec.Name, err)
	}
	blob, err := content.ReadBlob(ctx, s.content, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("read configuration of image %q: %w", rec.Name, err)
	}
	img := &Image{Digest: rec.Target.Digest.String(), ID: manifest.Config.Digest.String(), Size: manifest.Config.Size}
	for _, l := range manifest.Layers {
		img.Size += l.Size
	}
	if err := json.Unmarshal(blob, &img.Config); err != nil {
		return nil, fmt.Errorf("read configuration of image %q: %w", rec.Name, err)
	}
	return img, nil
}

// List returns all images, sorted by name. One whose files are damaged is left
// out, so that it does not hide the others; it can still be removed by name.
func (s *Store) List(ctx context.Context) ([]*Image, error) {
	ctx = s.context(ctx)
	recs, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	list := make([]*Image, 0, len(recs))
	for _, rec := range recs {
		img, err := s.describe(ctx, rec)
		if errdefs.IsNotFound(err) {
			continue // removed in between
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			s.log.Warn("image is damaged: remove it and pull it again", "image", rec.Name, "err", err)
			continue
		}
		list = append(list, img)
	}
	sort.Slice(list, func(a, b int) bool { return list[a].Name < list[b].Name })
	return list, nil
}

// Tag gives an image a further name.
func (s *Store) Tag(ctx context.Context, ref, name string) (*Image, error) {
	named, err := parseRef(name)
	if err != nil {
		return nil, err
	}
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.record(s.context(ctx), named.String(), img.target)
}

// Remove forgets a name. Given a bare digest or ID it forgets every name of it.
// Content that no other name, pull or container uses is collected soon after;
// a running container keeps its layers. errors.Is(err, fs.ErrNotExist) when it
// is not here.
func (s *Store) Remove(ctx context.Context, ref string) error {
	ctx = s.context(ctx)
	names, err := s.namesToRemove(ctx, ref)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.images.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %q: %w", name, err)
		}
	}
	s.collector.kick()
	return nil
}

// namesToRemove reads no content where it can: a damaged image must be removable.
func (s *Store) namesToRemove(ctx context.Context, ref string) ([]string, error) {
	if d, ok := parseDigest(ref); ok {
		names, err := s.namesOf(ctx, d)
		if err != nil || len(names) > 0 {
			return names, err
		}
		img, err := s.Get(ctx, ref) // an ID
		if err != nil {
			return nil, err
		}
		return s.namesOf(ctx, img.target.Digest)
	}
	named, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	if _, err := s.images.Get(ctx, named.String()); !errdefs.IsNotFound(err) {
		return []string{named.String()}, err
	}
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return []string{img.Name}, nil
}

func (s *Store) namesOf(ctx context.Context, target digest.Digest) ([]string, error) {
	recs, err := s.images.List(ctx, "target.digest=="+target.String())
	if err != nil {
		return nil, fmt.Errorf("list names of %s: %w", target, err)
	}
	names := make([]string, 0, len(recs))
	for _, rec := range recs {
		names = append(names, rec.Name)
	}
	return names, nil
}

// FamiliarName shortens a full name as docker prints it:
// "docker.io/library/nginx:latest" becomes "nginx:latest".
func FamiliarName(name string) string {
	named, err := reference.ParseNormalizedNamed(strings.TrimSpace(name))
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}
