package base

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Recipe says how a base image was made, so that it can be made again. It is the
// label [LabelRecipe].
type Recipe struct {
	Kind         string   `json:"kind"` // "debian", "busybox" or "slim"
	Name         string   `json:"name,omitempty"`
	Suite        string   `json:"suite,omitempty"`
	Packages     []string `json:"packages,omitempty"`
	Dependencies bool     `json:"dependencies,omitempty"`
	Root         bool     `json:"root,omitempty"`
}

// Image is a base image in a registry.
type Image struct {
	Name     string   `json:"name"` // with tag
	Digest   string   `json:"digest"`
	Version  string   `json:"version"`
	Created  string   `json:"created"` // release of the distribution that it is of
	Size     int64    `json:"sizeBytes"`
	Recipe   Recipe   `json:"recipe"`
	Packages []string `json:"packages"` // "name=version"
	Layers   []string `json:"layers"`   // digests of what is inside, uncompressed
}

// List finds the base images of a registry ("host:port").
func List(ctx context.Context, registry string) ([]Image, error) {
	var out []Image
	err := walk(ctx, registry, func(tag name.Tag, img v1.Image) error {
		found, err := describe(tag, img)
		if found != nil {
			out = append(out, *found)
		}
		return err
	})
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// describe is nil for an image that was not made here.
func describe(tag name.Tag, img v1.Image) (*Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", tag, err)
	}
	labels := config.Config.Labels
	if len(config.History) != 1 || len(config.RootFS.DiffIDs) != 1 || labels[LabelRecipe] == "" {
		return nil, nil // images that derive from one have its labels, and more history
	}
	r, err := result(tag, img)
	if err != nil {
		return nil, err
	}
	out := &Image{
		Name: tag.Name(), Digest: r.Digest, Version: labels[LabelVersion], Created: labels[LabelCreated], Size: r.Size,
		Packages: strings.Fields(labels[LabelPackages]), Layers: layers(config),
	}
	if err := json.Unmarshal([]byte(labels[LabelRecipe]), &out.Recipe); err != nil {
		return nil, nil // a label of somebody else's
	}
	return out, nil
}

func layers(config *v1.ConfigFile) (out []string) {
	for _, d := range config.RootFS.DiffIDs {
		out = append(out, d.String())
	}
	return out
}

// walk calls visit for the image of each tag of a registry. Of what is no image of
// one platform there is nothing to see.
func walk(ctx context.Context, registry string, visit func(name.Tag, v1.Image) error) error {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	reg, err := name.NewRegistry(registry)
	if err != nil {
		return err
	}
	repositories, err := remote.Catalog(ctx, reg, options...)
	if err != nil {
		return fmt.Errorf("list registry %s: %w", registry, err)
	}
	for _, r := range repositories {
		tags, err := remote.List(reg.Repo(r), options...)
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list registry %s: %w", registry, err)
		}
		for _, t := range tags {
			d, err := remote.Get(reg.Repo(r).Tag(t), options...)
			if missing(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read image %s/%s:%s: %w", registry, r, t, err)
			}
			img, err := d.Image()
			if err != nil || !d.MediaType.IsImage() {
				continue
			}
			if m, err := img.Manifest(); err != nil || !m.Config.MediaType.IsConfig() {
				continue
			}
			if err := visit(reg.Repo(r).Tag(t), img); err != nil {
				return err
			}
		}
	}
	return nil
}

func missing(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

// Derived returns the names of the images that start with the layers of a base image,
// which shows what they were built on, whatever their labels say.
func Derived(ctx context.Context, registry string, from Image) ([]string, error) {
	var out []string
	err := walk(ctx, registry, func(tag name.Tag, img v1.Image) error {
		config, err := img.ConfigFile()
		if err != nil {
			return fmt.Errorf("read image %s: %w", tag, err)
		}
		if have := layers(config); len(have) > len(from.Layers) && slices.Equal(have[:len(from.Layers)], from.Layers) {
			out = append(out, tag.Name())
		}
		return nil
	})
	slices.Sort(out)
	return out, err
}

// Updates returns the packages of a base image of which the distribution has other
// versions now, as "name old → new". It reads the distribution's indexes.
func Updates(ctx context.Context, of Image, workIn string) ([]string, error) {
	if of.Recipe.Kind == "busybox" {
		return nil, nil
	}
	sources, err := hostSources("/etc/apt", of.Recipe.Suite)
	if err != nil {
		return nil, err
	}
	dir, remove, err := workDir(workIn)
	if err != nil {
		return nil, err
	}
	defer remove()
	a, err := newApt(ctx, filepath.Join(dir, "apt"), sources)
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	var names []string
	for _, p := range of.Packages {
		n, v, _ := strings.Cut(p, "=")
		have[n] = v
		names = append(names, n)
	}
	now, err := a.versions(ctx, names)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range now {
		if n, v, _ := strings.Cut(p, "="); have[n] != v {
			out = append(out, fmt.Sprintf("%s %s → %s", n, have[n], v))
		}
	}
	return out, nil
}
