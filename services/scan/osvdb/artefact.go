package osvdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/gantryhq/gantry/internal/atomicfile"
	"github.com/gantryhq/gantry/internal/hint"
)

// Repository and Tag are where the database is in a registry, unless said otherwise.
const (
	Repository = "gantry-system/osv-db"
	Tag        = "latest"
)

const (
	configType = types.MediaType("application/vnd.gantry.osv-db.config.v1+json")
	layerType  = types.MediaType("application/vnd.gantry.osv-db.v1+zstd")

	annotationRecords = "dev.gantry.osv-db.records"
	annotationNewest  = "dev.gantry.osv-db.newest"
	annotationAbout   = "dev.gantry.osv-db.about" // the rest, as JSON

	maxFileBytes = 8 << 30 // of a database that is fetched
)

// ErrNone means that the registry has no database.
var ErrNone = errors.New("there is no vulnerability database")

// Status is a database in a registry.
type Status struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	SizeBytes int64     `json:"sizeBytes"` // compressed
	Newest    time.Time `json:"newest"`
	About
}

// Reference is the database's default name in a registry ("host:port").
func Reference(registry string) string { return registry + "/" + Repository + ":" + Tag }

// Push writes a database into a registry and returns what is there now.
func Push(ctx context.Context, path, ref string, options ...remote.Option) (*Status, error) {
	db, err := Open(path)
	if err != nil {
		return nil, err
	}
	about := db.About()
	if err := db.Close(); err != nil {
		return nil, err
	}
	packed, err := pack(path)
	if err != nil {
		return nil, fmt.Errorf("pack vulnerability database: %w", err)
	}
	defer os.Remove(packed.path)
	tag, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("name of the vulnerability database: %w", err)
	}
	img, err := artefact(packed, about)
	if err != nil {
		return nil, fmt.Errorf("assemble vulnerability database: %w", err)
	}
	if err := remote.Write(tag, img, append(options, remote.WithContext(ctx))...); err != nil {
		return nil, fmt.Errorf("push vulnerability database %s: %w", ref, err)
	}
	return status(tag, img)
}

func artefact(l *layer, about About) (v1.Image, error) {
	text, err := json.Marshal(about)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), configType)
	img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: layerType,
		Annotations: map[string]string{"org.opencontainers.image.title": "osv.db"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(img, map[string]string{
		annotationRecords: strconv.Itoa(about.Records), annotationNewest: about.Newest.Format(time.RFC3339), annotationAbout: string(text),
	}).(v1.Image), nil
}

// Look reads what a registry has, without fetching it. The error is ErrNone when
// there is no such name.
func Look(ctx context.Context, ref string, options ...remote.Option) (*Status, error) {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("name of the vulnerability database: %w", err)
	}
	img, err := get(ctx, tag, options)
	if err != nil {
		return nil, err
	}
	return status(tag, img)
}

func get(ctx context.Context, tag name.Reference, options []remote.Option) (v1.Image, error) {
	img, err := remote.Image(tag, append(options, remote.WithContext(ctx))...)
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", tag, ErrNone), "make one with `gantry scan db import all.zip`, from https://osv-vulnerabilities.storage.googleapis.com/Debian/all.zip and the like")
	}
	if err != nil {
		return nil, fmt.Errorf("read vulnerability database %s: %w", tag, err)
	}
	return img, nil
}

func status(tag name.Reference, img v1.Image) (*Status, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("read vulnerability database %s: %w", tag, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("read vulnerability database %s: %w", tag, err)
	}
	if m.Config.MediaType != configType || len(m.Layers) != 1 {
		return nil, fmt.Errorf("%s is not a vulnerability database: its type is %s", tag, m.Config.MediaType)
	}
	s := &Status{Name: tag.Name(), Digest: digest.String(), SizeBytes: m.Layers[0].Size}
	if err := json.Unmarshal([]byte(m.Annotations[annotationAbout]), &s.About); err != nil {
		return nil, fmt.Errorf("read vulnerability database %s: %w", tag, err)
	}
	s.Newest = s.About.Newest
	return s, nil
}

// Fetch makes sure that dir holds the database that ref means, and only that one,
// and returns its file and what it is. A file that is there is used as it is.
func Fetch(ctx context.Context, ref, dir string, options ...remote.Option) (path string, s *Status, err error) {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return "", nil, fmt.Errorf("name of the vulnerability database: %w", err)
	}
	img, err := get(ctx, tag, options)
	if err != nil {
		return "", nil, err
	}
	if s, err = status(tag, img); err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, strings.ReplaceAll(s.Digest, ":", "-")+".db")
	if _, err := os.Stat(path); err == nil {
		return path, s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("fetch vulnerability database: %w", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return "", nil, fmt.Errorf("fetch vulnerability database: %w", err)
	}
	if err := unpack(layers[0], path); err != nil {
		return "", nil, fmt.Errorf("fetch vulnerability database %s: %w", ref, err)
	}
	removeOthers(dir, path)
	return path, s, nil
}

// unpack writes a layer to a file that appears only when it is whole and its digest
// is right.
func unpack(l v1.Layer, path string) error {
	packed, err := l.Compressed()
	if err != nil {
		return err
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	return atomicfile.Replace(path, 0o600, func(out io.Writer) error {
		n, err := io.Copy(out, io.LimitReader(z, maxFileBytes+1))
		if err == nil && n > maxFileBytes {
			err = fmt.Errorf("it has more than %d GB", maxFileBytes>>30)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, packed) // the digest is checked at the end
		}
		return err
	})
}

// removeOthers drops the databases that came before. Whoever still reads one keeps it.
func removeOthers(dir, keep string) {
	old, _ := filepath.Glob(filepath.Join(dir, "*.db")) // the pattern is right
	for _, path := range old {
		if path != keep {
			_ = os.Remove(path) // only disk space
		}
	}
}
