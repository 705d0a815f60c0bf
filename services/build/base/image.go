package base

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gantryhq/gantry/internal/hint"
)

// Labels of a base image.
const (
	LabelInputs   = "gantry.dev/base.inputs"           // digest of what it was made from, to skip making it again
	LabelSource   = "org.opencontainers.image.source"  // mirror and suite, or package
	LabelTitle    = "org.opencontainers.image.title"   // what it is
	LabelVersion  = "org.opencontainers.image.version" // of the distribution or package
	LabelCreated  = "org.opencontainers.image.created" // newest input, not when it was made
	LabelPackages = "gantry.dev/base.packages"         // "name=version name=version ..."
	LabelRecipe   = "gantry.dev/base.recipe"           // a Recipe, to make it again
)

// recipe changes when the way images are made does, so that they are made anew.
const recipe = "3"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Result is a base image in the registry.
type Result struct {
	Ref      string // as pushed
	Digest   string
	Skipped  bool // it was there already
	Packages int
	Size     int64 // compressed bytes
}

// Progress is told what happens, one line at a time. It may be nil.
type Progress func(line string)

func (p Progress) say(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// image is a base image that is about to be made.
type image struct {
	ref      name.Reference
	inputs   string
	layer    string // path of the compressed layer
	created  time.Time
	title    string
	version  string
	source   string
	packages []string // "name=version"
	cmd      []string
	env      []string // nil means a PATH of the usual directories
	user     string
	workDir  string
	recipe   *Recipe
}

// inputsDigest names a set of inputs.
func inputsDigest(parts ...string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(recipe+"\x00"+strings.Join(parts, "\x00"))))
}

// parseTag reads the name an image will have.
func parseTag(tag string) (name.Reference, error) {
	ref, err := name.NewTag(tag)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", tag, err)
	}
	return ref, nil
}

// existing returns the image under ref when it was made from these inputs.
func existing(ctx context.Context, ref name.Reference, inputs string) (*Result, error) {
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	var answer *transport.Error
	switch {
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, unreachable(ref, err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	if cfg.Config.Labels[LabelInputs] != inputs {
		return nil, nil
	}
	r, err := result(ref, img)
	if err != nil {
		return nil, err
	}
	r.Skipped = true
	r.Packages = len(strings.Fields(cfg.Config.Labels[LabelPackages]))
	return r, nil
}

func unreachable(ref name.Reference, err error) error {
	var refused *net.OpError
	if errors.As(err, &refused) {
		err = refused // without the URLs that were tried
	}
	return hint.Wrap(fmt.Errorf("registry %s cannot be reached: %w", ref.Context().RegistryStr(), err),
		"start Gantry with `gantry serve`, or name another registry with --tag")
}

// push assembles the image and writes it to its registry.
func (i *image) push(ctx context.Context) (*Result, error) {
	img, err := i.assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble image %s: %w", i.ref, err)
	}
	if err := remote.Write(i.ref, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return nil, fmt.Errorf("push image %s: %w", i.ref, err)
	}
	r, err := result(i.ref, img)
	if err != nil {
		return nil, err
	}
	r.Packages = len(i.packages)
	return r, nil
}

func (i *image) assemble() (v1.Image, error) {
	layer, err := tarball.LayerFromFile(i.layer, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: i.created.UTC()}
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: created, CreatedBy: "gantry base", Comment: i.source},
	})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created = "linux", runtime.GOARCH, created
	cfg.Config.Env = i.env
	if i.env == nil {
		cfg.Config.Env = []string{"PATH=" + defaultPath}
	}
	cfg.Config.Cmd, cfg.Config.User, cfg.Config.WorkingDir = i.cmd, i.user, i.workDir
	how, err := json.Marshal(i.recipe)
	if err != nil {
		return nil, err
	}
	cfg.Config.Labels = map[string]string{
		LabelInputs:   i.inputs,
		LabelSource:   i.source,
		LabelTitle:    i.title,
		LabelVersion:  i.version,
		LabelCreated:  i.created.UTC().Format(time.RFC3339),
		LabelPackages: strings.Join(i.packages, " "),
		LabelRecipe:   string(how),
	}
	return mutate.ConfigFile(img, cfg)
}

func result(ref name.Reference, img v1.Image) (*Result, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	r := &Result{Ref: ref.Name(), Digest: digest.String(), Size: manifest.Config.Size}
	for _, l := range manifest.Layers {
		r.Size += l.Size
	}
	return r, nil
}

// workDir is a directory for making an image, and the function that removes it.
func workDir(parent string) (dir string, remove func(), err error) {
	if parent != "" {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return "", nil, fmt.Errorf("make a working directory: %w", err)
		}
	}
	dir, err = os.MkdirTemp(parent, "base-")
	if err != nil {
		return "", nil, fmt.Errorf("make a working directory: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil // what is left is only disk space
}
