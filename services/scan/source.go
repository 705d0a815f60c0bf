package scan

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	maxManifest = 16 << 20
	maxMembers  = 100_000 // of an archive
	maxNested   = 4       // indexes in indexes
)

// Pull reads an image's manifest from a registry; its layers are read as they are
// scanned. Of an image for several platforms it is the one for platform.
func Pull(ctx context.Context, ref name.Reference, platform v1.Platform, options ...remote.Option) (v1.Image, error) {
	img, err := remote.Image(ref, append(options, remote.WithContext(ctx), remote.WithPlatform(platform))...)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	return img, nil
}

// Open reads an image from disk: an OCI layout, as a directory or in one archive, or
// an archive of `docker save`. Closing done ends its use.
func Open(file string, platform v1.Platform) (img v1.Image, done io.Closer, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read image: %w", err)
	}
	var files blobStore
	if info.IsDir() {
		files, err = openDirectory(file)
	} else {
		files, err = openArchive(file)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read image %s: %w", file, err)
	}
	if a, ok := files.(*archive); ok && a.members["manifest.json"] != nil {
		img, err = tarball.ImageFromPath(file, nil)
	} else {
		img, err = layoutOf(files, platform)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read image %s: %w", file, errors.Join(err, files.Close()))
	}
	return img, files, nil
}

// blobStore is where the files of an OCI image layout are
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
type blobStore interface {
	io.Closer
	open(name string) (r io.ReadCloser, size int64, err error)
}

// directory does not follow links that lead out of it.
type directory struct{ *os.Root }

func openDirectory(dir string) (blobStore, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if _, err := root.Stat("index.json"); err != nil {
		return nil, hint.Wrap(errors.Join(errors.New("the directory is no OCI image layout: it has no index.json"), root.Close()),
			"build an image of it first, or give --dockerfile to check a Dockerfile")
	}
	return directory{root}, nil
}

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// archive is a tar file, read in place.
type archive struct {
	*os.File
	members map[string]*io.SectionReader
}

func openArchive(file string) (blobStore, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	a := &archive{f, map[string]*io.SectionReader{}}
	entries := tar.NewReader(f)
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) && len(a.members) > 0 {
			return a, nil
		}
		if err == nil && len(a.members) > maxMembers {
			err = fmt.Errorf("it has more than %d files", maxMembers)
		}
		if err != nil {
			return nil, hint.Wrap(errors.Join(fmt.Errorf("it is no archive of an image: %w", err), f.Close()),
				"a file must be what `docker save` writes, or an OCI layout in a tar file; --dockerfile checks a Dockerfile")
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		a.members[path.Clean(h.Name)] = io.NewSectionReader(f, at, h.Size)
	}
}

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	r := a.members[name]
	if r == nil {
		return nil, 0, fmt.Errorf("it has no %s", name)
	}
	return io.NopCloser(io.NewSectionReader(r, 0, r.Size())), r.Size(), nil
}

// layoutOf finds the platform's image in a layout.
func layoutOf(files blobStore, platform v1.Platform) (v1.Image, error) {
	text, err := readSmall(files, "index.json")
	for range maxNested {
		if err != nil {
			return nil, err
		}
		var m v1.IndexManifest
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("its index: %w", err)
		}
		chosen := choose(m.Manifests, platform)
		if chosen == nil {
			return nil, hint.Wrap(fmt.Errorf("none of its %d images is for %s", len(m.Manifests), platform), "choose another one with --platform")
		}
		if text, err = blob(files, chosen.Digest); err == nil && !chosen.MediaType.IsIndex() {
			return partial.CompressedToImage(&layoutImage{files, text})
		}
	}
	return nil, errors.New("its indexes are nested too deeply")
}

// choose returns the image for a platform; one that is alone is taken.
func choose(all []v1.Descriptor, platform v1.Platform) *v1.Descriptor {
	for i, d := range all {
		if len(all) == 1 || d.Platform != nil && d.Platform.Satisfies(platform) {
			return &all[i]
		}
	}
	return nil
}

func readSmall(files blobStore, name string) ([]byte, error) {
	r, size, err := files.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxManifest {
		return nil, fmt.Errorf("its %s has more than %d MB", name, maxManifest>>20)
	}
	return io.ReadAll(r)
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// blob reads a small blob and checks its digest.
func blob(files blobStore, h v1.Hash) ([]byte, error) {
	text, err := readSmall(files, blobName(h))
	if err != nil {
		return nil, err
	}
	sum, _, err := v1.SHA256(bytes.NewReader(text))
	if err == nil && sum != h {
		err = fmt.Errorf("blob %s has the digest %s", h, sum)
	}
	return text, err
}

// layoutImage is what go-containerregistry makes an image of.
type layoutImage struct {
	files    blobStore
	manifest []byte
}

func (i *layoutImage) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *layoutImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (i *layoutImage) parsed() (*v1.Manifest, error)       { return partial.Manifest(i) }
func (i *layoutImage) RawConfigFile() (text []byte, err error) {
	m, err := i.parsed()
	if err != nil {
		return nil, err
	}
	return blob(i.files, m.Config.Digest)
}

func (i *layoutImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := i.parsed()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if d.Digest == h {
			return &layoutLayer{d, i.files}, nil
		}
	}
	return nil, fmt.Errorf("layer %s is not of this image", h)
}

type layoutLayer struct {
	v1.Descriptor
	files blobStore
}

func (l *layoutLayer) Digest() (v1.Hash, error)            { return l.Descriptor.Digest, nil }
func (l *layoutLayer) Size() (int64, error)                { return l.Descriptor.Size, nil }
func (l *layoutLayer) MediaType() (types.MediaType, error) { return l.Descriptor.MediaType, nil }

// Compressed fails at the end when the content is not what the digest says.
func (l *layoutLayer) Compressed() (io.ReadCloser, error) {
	if l.Descriptor.Digest.Algorithm != "sha256" {
		return nil, fmt.Errorf("layer %s: the algorithm of its digest is not known", l.Descriptor.Digest)
	}
	r, _, err := l.files.open(blobName(l.Descriptor.Digest))
	if err != nil {
		return nil, err
	}
	return &verified{ReadCloser: r, want: l.Descriptor.Digest, sum: sha256.New()}, nil
}

type verified struct {
	io.ReadCloser
	want v1.Hash
	sum  hash.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.sum.Write(p[:n]) // a hash never fails
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Hex {
			return n, fmt.Errorf("its content has the digest sha256:%s", got)
		}
	}
	return n, err
}
