package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/build"
	"github.com/gantryhq/gantry/services/build/base"
)

const (
	// defaultRegistry is where an instance that does not say has its registry.
	defaultRegistry = "127.0.0.1:5000"
	// debianBase is the image that is made when a Dockerfile starts from it.
	debianBase = "base/debian"

	// Every build is offered the certificates that this machine trusts as a
	// secret, for networks whose proxy signs with its own authority. A step that
	// downloads says
	//   RUN --mount=type=secret,id=ca-certificates,target=/etc/ssl/certs/ca-certificates.crt ...
	certificatesSecret = "ca-certificates"
	hostCertificates   = "/etc/ssl/certs/ca-certificates.crt"
)

// imageBuilder makes the images of an application with this machine's build
// worker and the built-in registry. It implements app.Builder.
type imageBuilder struct {
	instance
	client *build.Client
	signer *imageSigner
	baseMu sync.Mutex // one makes the base image, the others wait for it
}

var _ app.Builder = (*imageBuilder)(nil)

func newImageBuilder(ctx context.Context, g *globals) (*imageBuilder, error) {
	in := findInstance(ctx, g)
	client, err := build.NewClient(build.ClientConfig{DataDir: in.dataDir})
	if err != nil {
		return nil, err
	}
	return &imageBuilder{client: client, instance: in, signer: &imageSigner{kube: g.keyring().Kube}}, nil
}

// Build implements app.Builder.
func (b *imageBuilder) Build(ctx context.Context, r app.BuildRequest) (string, error) {
	digest, err := b.build(ctx, r, func(*build.Options) {})
	if err != nil {
		return "", err
	}
	built := b.registry + "/" + r.Repository + "@" + digest
	b.signer.ensure(ctx, built)
	return built, nil
}

// build builds and pushes, with options that adjust may change, and returns the digest.
func (b *imageBuilder) build(ctx context.Context, r app.BuildRequest, adjust func(*build.Options)) (digest string, err error) {
	if len(r.Contexts) > 0 {
		return "", hint.Wrap(errors.New("additional contexts are not supported"), "copy the files into the build context, or start FROM an image that has them")
	}
	dockerfile := r.Dockerfile
	if r.DockerfileInline != "" {
		dir, err := os.MkdirTemp("", "gantry-dockerfile-")
		if err != nil {
			return "", fmt.Errorf("write dockerfile_inline: %w", err)
		}
		defer os.RemoveAll(dir)
		dockerfile = filepath.Join(dir, "Dockerfile")
		if err := os.WriteFile(dockerfile, []byte(r.DockerfileInline), 0o600); err != nil {
			return "", fmt.Errorf("write dockerfile_inline: %w", err)
		}
	}
	target := b.registry + "/" + r.Repository
	options := build.Options{
		ContextDir: r.Context, Dockerfile: dockerfile, Tags: []string{target + ":latest"}, Target: r.Target,
		BuildArgs: r.Args, Labels: r.Labels, NoCache: r.NoCache, Registry: b.registry, Push: true,
		Progress: func(s build.Step) {
			if r.Progress != nil && !s.Completed && !s.Cached && !strings.HasPrefix(s.Name, "[internal]") {
				r.Progress(stepName(s.Name))
			}
		},
	}
	if _, err := os.Stat(hostCertificates); err == nil {
		options.Secrets = append(options.Secrets, build.Secret{ID: certificatesSecret, File: hostCertificates})
	}
	for id, content := range r.Secrets {
		options.Secrets = append(options.Secrets, build.Secret{ID: id, Data: content})
	}
	adjust(&options)
	result, err := b.client.Build(ctx, options)
	if err != nil {
		return "", err
	}
	return result.Digest, nil
}

var mountFlag = regexp.MustCompile(`--(mount|security|network)=\S+`)

// stepName is a step of a Dockerfile on one line, without what only BuildKit reads.
func stepName(name string) string {
	return strings.Join(strings.Fields(mountFlag.ReplaceAllString(name, "")), " ")
}

// Has implements app.Builder. What was built before the installation had a key is signed now.
func (b *imageBuilder) Has(ctx context.Context, ref string) (bool, error) {
	digest, err := b.head(ctx, ref)
	if digest != "" {
		b.signer.ensure(ctx, ref)
	}
	return digest != "", err
}

// head returns the digest of an image in the registry, or "" when it is not there.
func (b *imageBuilder) head(ctx context.Context, ref string) (string, error) {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", ref, err)
	}
	descriptor, err := remote.Head(parsed, remote.WithContext(ctx))
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", hint.Wrap(fmt.Errorf("ask the registry for %s: %w", ref, err), "is `gantry serve` running, with its registry on %s?", b.registry)
	}
	return descriptor.Digest.String(), nil
}

var fromLine = regexp.MustCompile(`(?im)^\s*FROM\s+(?:--\S+\s+)*(\S+)`)

// Base implements app.Builder: it finds the base images in the built-in registry
// and makes the Debian base when it is wanted and absent.
func (b *imageBuilder) Base(ctx context.Context, r app.BuildRequest) (map[string]string, error) {
	content := []byte(r.DockerfileInline)
	if len(content) == 0 {
		var err error
		if content, err = os.ReadFile(r.Dockerfile); err != nil {
			return nil, fmt.Errorf("read Dockerfile: %w", err)
		}
	}
	digests := map[string]string{}
	for _, match := range fromLine.FindAllSubmatch(content, -1) {
		ref := strings.NewReplacer("${"+build.RegistryArg+"}", b.registry, "$"+build.RegistryArg, b.registry).Replace(string(match[1]))
		if !strings.HasPrefix(ref, b.registry+"/") {
			continue
		}
		digest, err := b.head(ctx, ref)
		if err == nil && digest == "" && strings.HasPrefix(ref, b.registry+"/"+debianBase+":") {
			digest, err = b.makeDebian(ctx, ref, r.Progress)
		}
		if err != nil {
			return nil, err
		}
		digests[ref] = digest
	}
	return digests, nil
}

// makeDebian makes the Debian base image, once however many images need it.
func (b *imageBuilder) makeDebian(ctx context.Context, ref string, report func(string)) (string, error) {
	if report == nil {
		report = func(string) {}
	}
	report("waiting for the Debian base image")
	b.baseMu.Lock()
	defer b.baseMu.Unlock()
	if digest, err := b.head(ctx, ref); err != nil || digest != "" {
		return digest, err
	}
	_, version, _ := strings.Cut(strings.TrimPrefix(ref, b.registry+"/"), ":")
	suite, err := debianSuite(version)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", ref, err)
	}
	made, err := base.Debian(ctx, base.DebianOptions{
		Tag: ref, Suite: suite, WorkDir: filepath.Join(b.dataDir, "build", "tmp"),
		Progress: func(line string) { report("Debian base image: " + line) },
	})
	if err != nil {
		return "", err
	}
	repository, _, _ := strings.Cut(strings.TrimPrefix(ref, b.registry), ":") // the registry has a colon too
	b.signer.ensure(ctx, b.registry+repository+"@"+made.Digest)
	return made.Digest, nil
}

// debianSuite is the name of a Debian release.
func debianSuite(version string) (string, error) {
	for _, suite := range []string{"bookworm", "trixie", base.HostSuite()} {
		if base.SuiteVersion(suite) == version {
			return suite, nil
		}
	}
	return "", hint.Wrap(fmt.Errorf("no Debian release has the version %q", version), "use debian:12 or debian:13")
}
