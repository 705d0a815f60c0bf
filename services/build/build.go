package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/internal/hint"
)

// RegistryArg is a build argument that every build gets: the host and port of
// the built-in registry. A Dockerfile that declares it can start from an image
// there, whatever the port:
//
//	ARG GANTRY_REGISTRY=127.0.0.1:5000
//	FROM ${GANTRY_REGISTRY}/base/debian:12
const RegistryArg = "GANTRY_REGISTRY"

// Options describe one build.
type Options struct {
	ContextDir string
	// ContextTar, when not nil, is the context instead: a tar archive, compressed or
	// not. Dockerfile then is a path in it.
	ContextTar io.Reader
	Dockerfile string   // path; "" means ContextDir/Dockerfile
	Tags       []string // full names: "127.0.0.1:5000/shop/cart:latest"
	Target     string   // stage to build; "" means the last
	BuildArgs  map[string]string
	Labels     map[string]string
	Secrets    []Secret
	NoCache    bool
	NoNetwork  bool   // steps reach nothing at all, not even the outside
	Registry   string // host:port of the built-in registry, for RegistryArg; "" leaves it out

	// Push sends the image to the registries its tags name.
	Push bool
	// Archive, when not nil, receives the image as an OCI archive that
	// `docker load` reads too. It is closed.
	Archive io.WriteCloser

	// Display shows the build to a human: moving bars when it is a terminal,
	// else plain lines. Nil shows nothing.
	Display io.Writer
	// Plain asks for plain lines on a terminal too.
	Plain bool
	// Progress, when not nil, is called with each step that starts or ends.
	Progress func(Step)
}

// Secret is a file or variable that steps with --mount=type=secret,id=ID can
// read. It never becomes part of the image or of the cache.
type Secret struct {
	ID   string
	File string // path, or
	Env  string // environment variable of this process, or
	Data []byte // the secret itself
}

// Step is one step of a build.
type Step struct {
	Name      string // "[build 2/4] RUN make"
	Completed bool   // else it starts
	Cached    bool
	Error     string
}

// Result is what was built.
type Result struct {
	Digest string   // of the image's manifest
	ID     string   // digest of its configuration
	Tags   []string // as given, normalized
}

// Build builds an image. A failure in the Dockerfile or in a step is an [*Error].
func (c *Client) Build(ctx context.Context, opt Options) (*Result, error) {
	if opt.ContextTar != nil {
		dir, remove, err := c.unpack(opt.ContextTar)
		if err != nil {
			return nil, err
		}
		defer remove()
		opt.ContextDir = dir
		if opt.Dockerfile, err = inside(dir, cmp.Or(opt.Dockerfile, "Dockerfile")); err != nil {
			return nil, err
		}
	}
	solve, tags, err := prepare(opt)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	watch := newWatcher(opt)
	updates := make(chan *bkclient.SolveStatus)
	var resp *bkclient.SolveResponse
	var g errgroup.Group
	g.Go(func() (err error) {
		resp, err = conn.Solve(ctx, nil, *solve, updates)
		return err
	})
	g.Go(func() error { return watch.follow(updates) })
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, watch.explain(err)
	}
	return &Result{
		Digest: resp.ExporterResponse[exptypes.ExporterImageDigestKey],
		ID:     resp.ExporterResponse[exptypes.ExporterImageConfigDigestKey],
		Tags:   tags,
	}, nil
}

// prepare checks the options and says them in BuildKit's terms.
func prepare(opt Options) (*bkclient.SolveOpt, []string, error) {
	tags := make([]string, 0, len(opt.Tags))
	for _, t := range opt.Tags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, nil, fmt.Errorf("image name %q: %w", t, err)
		}
		tags = append(tags, reference.TagNameOnly(named).String())
	}
	if opt.Push && len(tags) == 0 {
		return nil, nil, hint.Wrap(errors.New("push the built image: it has no name"), "name it with -t")
	}
	files, err := contextFiles(opt)
	if err != nil {
		return nil, nil, err
	}
	attrs := maps.Clone(files.attrs)
	if opt.Target != "" {
		attrs["target"] = opt.Target
	}
	if opt.NoCache {
		attrs["no-cache"] = ""
	}
	if opt.NoNetwork {
		attrs["force-network-mode"] = "none"
	}
	for k, v := range buildArgs(opt) {
		attrs["build-arg:"+k] = v
	}
	for k, v := range opt.Labels {
		attrs["label:"+k] = v
	}
	attach, err := attachables(opt)
	if err != nil {
		return nil, nil, err
	}
	return &bkclient.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   files.mounts,
		SharedKey:     files.sharedKey,
		Session:       attach,
		Exports:       exports(opt, tags),
	}, tags, nil
}

// buildArgs adds what every build gets to what the caller gives. Proxies are
// BuildKit's predefined arguments: they reach steps but not the image or the cache key.
func buildArgs(opt Options) map[string]string {
	args := map[string]string{}
	if opt.Registry != "" {
		args[RegistryArg] = opt.Registry
	}
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"} {
		for _, k := range []string{k, strings.ToLower(k)} {
			if v := os.Getenv(k); v != "" {
				args[k] = v
			}
		}
	}
	maps.Copy(args, opt.BuildArgs)
	return args
}

type sources struct {
	mounts    map[string]fsutil.FS
	attrs     map[string]string
	sharedKey string
}

// contextFiles finds the context and the Dockerfile, which may lie outside of it.
func contextFiles(opt Options) (*sources, error) {
	dir, err := filepath.Abs(opt.ContextDir)
	if err != nil {
		return nil, fmt.Errorf("build context %q: %w", opt.ContextDir, err)
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("build context: %w", err)
	} else if !info.IsDir() {
		return nil, hint.Wrap(fmt.Errorf("build context %s is a file", dir), "give the directory, and the Dockerfile with -f")
	}
	file := opt.Dockerfile
	if file == "" {
		file = filepath.Join(dir, "Dockerfile")
	}
	if file, err = filepath.Abs(file); err != nil {
		return nil, fmt.Errorf("Dockerfile %q: %w", opt.Dockerfile, err)
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Wrap(fmt.Errorf("there is no Dockerfile at %s: %w", file, fs.ErrNotExist), "name another with -f")
	}
	if err != nil {
		return nil, fmt.Errorf("read Dockerfile: %w", err)
	}
	context, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, fmt.Errorf("build context %s: %w", dir, err)
	}
	beside, err := fsutil.NewFS(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("directory of %s: %w", file, err)
	}
	attrs := map[string]string{"filename": filepath.Base(file)}
	if builtInSyntax(text) {
		// Present and empty: the built-in frontend does not look for another.
		attrs["cmdline"] = ""
	}
	return &sources{
		mounts: map[string]fsutil.FS{"context": context, "dockerfile": beside},
		attrs:  attrs,
		// Builds of one directory send only what changed since the last one.
		sharedKey: fmt.Sprintf("%x", sha256.Sum256([]byte(dir))),
	}, nil
}

var stableSyntax = regexp.MustCompile(`^(docker\.io/)?docker/dockerfile(:1(\.[0-9]+)*|:latest)?(@sha256:[0-9a-f]+)?$`)

// builtInSyntax is whether a `# syntax=` line, if there is one, asks for no
// more than the built-in frontend knows. Then no registry is needed for it.
func builtInSyntax(dockerfile []byte) bool {
	ref, _, _, ok := parser.DetectSyntax(dockerfile)
	return !ok || stableSyntax.MatchString(ref)
}

// attachables are what the worker may ask this process for during the build.
func attachables(opt Options) ([]session.Attachable, error) {
	secrets := map[string][]byte{}
	for _, s := range opt.Secrets {
		data, err := s.read()
		if err != nil {
			return nil, err
		}
		secrets[s.ID] = data
	}
	docker := config.LoadDefaultConfigFile(io.Discard)
	return []session.Attachable{
		secretsprovider.FromMap(secrets),
		authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
			AuthConfigProvider: authprovider.LoadAuthConfig(docker),
		}),
	}, nil
}

func (s Secret) read() ([]byte, error) {
	switch {
	case s.ID == "":
		return nil, errors.New("a build secret needs an id")
	case s.File != "":
		data, err := os.ReadFile(s.File)
		if err != nil {
			return nil, fmt.Errorf("build secret %q: %w", s.ID, err)
		}
		return data, nil
	case s.Env != "":
		value, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, fmt.Errorf("build secret %q: environment variable %s is not set", s.ID, s.Env)
		}
		return []byte(value), nil
	}
	return s.Data, nil
}

// exports says where the image goes. Without any it still is built and cached.
func exports(opt Options, tags []string) []bkclient.ExportEntry {
	names := strings.Join(tags, ",")
	var out []bkclient.ExportEntry
	if opt.Push || opt.Archive == nil {
		attrs := map[string]string{"name": names, "oci-mediatypes": "true"}
		if opt.Push {
			attrs["push"] = "true"
			local := allLoopback(tags)
			attrs["registry.insecure"] = fmt.Sprint(local)
			if local { // a tenth of gzip's time; other registries get what everyone can read
				attrs["compression"], attrs["compression-level"] = "zstd", "1"
			}
		}
		out = append(out, bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: attrs})
	}
	if opt.Archive != nil {
		out = append(out, bkclient.ExportEntry{
			Type:   bkclient.ExporterDocker,
			Attrs:  map[string]string{"name": names, "oci-mediatypes": "true"},
			Output: func(map[string]string) (io.WriteCloser, error) { return opt.Archive, nil },
		})
	}
	return out
}

// allLoopback is whether every name is on a registry of this machine, which is
// reached without TLS.
func allLoopback(tags []string) bool {
	for _, t := range tags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return false
		}
		host, _, err := net.SplitHostPort(reference.Domain(named))
		if err != nil {
			host = reference.Domain(named)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return len(tags) > 0
}
