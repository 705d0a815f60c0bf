package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/build"
)

const (
	defaultRegistry = "127.0.0.1:5000"
	debianBase      = "base/debian"
)

// imageBuilder makes the images of an application with this machine's build
// worker and the built-in registry. It implements app.Builder.
type imageBuilder struct {
	client   *build.Client
	registry string // host:port
	dataDir  string
	baseMu   sync.Mutex // one makes the base image, the others wait for it
}

var _ app.Builder = (*imageBuilder)(nil)

func newImageBuilder(ctx context.Context, g *globals, cfg *rest.Config) (*imageBuilder, error) {
	registry, err := registryOf(ctx, cfg)
	if err != nil {
		return nil, err
	}
	client, err := build.NewClient(build.ClientConfig{DataDir: g.dir()})
	if err != nil {
		return nil, err
	}
	return &imageBuilder{client: client, registry: registry, dataDir: g.dir()}, nil
}

// registryOf asks the cluster for its local registry, the way all Kubernetes
// development tools do (KEP-1755).
func registryOf(ctx context.Context, cfg *rest.Config) (string, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	cm, err := kube.CoreV1().ConfigMaps("kube-public").Get(ctx, "local-registry-hosting", metav1.GetOptions{})
	if err != nil {
		return defaultRegistry, nil // an instance that does not say uses the default
	}
	var hosting struct {
		Host string `json:"host"`
	}
	if err := yaml.Unmarshal([]byte(cm.Data["localRegistryHosting.v1"]), &hosting); err != nil || hosting.Host == "" {
		return defaultRegistry, nil
	}
	return hosting.Host, nil
}

// Build implements app.Builder.
func (b *imageBuilder) Build(ctx context.Context, r app.BuildRequest) (string, error) {
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
			if r.Progress != nil && !s.Completed && !s.Cached {
				r.Progress(s.Name)
			}
		},
	}
	for id, content := range r.Secrets {
		options.Secrets = append(options.Secrets, build.Secret{ID: id, Data: content})
	}
	result, err := b.client.Build(ctx, options)
	if err != nil {
		return "", err
	}
	return target + "@" + result.Digest, nil
}

// Has implements app.Builder.
func (b *imageBuilder) Has(ctx context.Context, ref string) (bool, error) {
	digest, err := b.head(ctx, ref)
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
			digest, err = b.makeBase(ctx, ref, r.Progress)
		}
		if err != nil {
			return nil, err
		}
		digests[ref] = digest
	}
	return digests, nil
}

// makeBase runs `gantry base debian`, once however many images need it.
func (b *imageBuilder) makeBase(ctx context.Context, ref string, report func(string)) (string, error) {
	if report != nil {
		report("waiting for the Debian base image")
	}
	b.baseMu.Lock()
	defer b.baseMu.Unlock()
	if digest, err := b.head(ctx, ref); err != nil || digest != "" {
		return digest, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("make %s: %w", ref, err)
	}
	cmd := exec.CommandContext(ctx, self, "base", "debian", "--data-dir", b.dataDir)
	var said strings.Builder
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", fmt.Errorf("make %s: %w", ref, err)
	}
	cmd.Stdout = nil
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("make %s: %w", ref, err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if report != nil {
			report("Debian base image: " + lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil {
		return "", hint.Wrap(fmt.Errorf("make %s: %w\n%s", ref, err, said.String()), "`gantry base debian` shows what is wrong")
	}
	return b.head(ctx, ref)
}
