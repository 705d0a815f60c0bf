package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/build"

	"github.com/gantryhq/gantry/engine/image"
)

// Bounds of a build context: a bomb is refused before it fills the disk.
const (
	maxContextBytes = 8 << 30
	maxContextFiles = 1 << 20
)

// serveBuild builds with the classic protocol: the context is an archive in the body.
func (s *Server) serveBuild(w http.ResponseWriter, r *http.Request) error {
	if r.FormValue("version") == "2" {
		return invalid("building with BuildKit over /build is not possible here: clients use /session and /grpc, as docker buildx does; or set DOCKER_BUILDKIT=0")
	}
	b, tags, err := buildOf(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "builds"), 0o700); err != nil {
		return fmt.Errorf("make room for the build context: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "builds"), "context-")
	if err != nil {
		return fullDisk(fmt.Errorf("make room for the build context: %w", err))
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			s.log.Warn("remove a build context", "err", err)
		}
	}()
	if err := receiveContext(r, dir); err != nil {
		return err
	}
	b.Dir = dir
	if _, err := os.Lstat(filepath.Join(dir, b.Dockerfile)); err != nil {
		return invalid("Cannot locate specified Dockerfile: %s", b.Dockerfile)
	}
	out := &messages{w: w}
	if from := r.FormValue("cachefrom"); from != "" && from != "[]" && from != "null" {
		out.send(message{Stream: "--cache-from has no effect: steps are found in the builder's own cache; BuildKit (docker buildx) reads others\n"})
	}
	img, err := s.build(r.Context(), b, tags, out)
	if err != nil {
		if !out.begun {
			out.send(message{})
		}
		return out.fail(err)
	}
	if !boolean(r, "q") {
		out.send(message{Aux: build.Result{ID: img.ID}})
		out.send(message{Stream: "Successfully built " + short(strings.TrimPrefix(img.ID, "sha256:")) + "\n"})
		for _, tag := range tags {
			out.send(message{Stream: "Successfully tagged " + image.FamiliarName(tag) + "\n"})
		}
		return nil
	}
	out.send(message{Aux: build.Result{ID: img.ID}})
	out.send(message{Stream: img.ID + "\n"})
	return nil
}

// buildOf reads the parameters of a build. Those that the builder cannot honour are refused.
func buildOf(r *http.Request) (b Build, tags []string, err error) {
	q := r.URL.Query()
	b = Build{Dockerfile: path.Clean(q.Get("dockerfile")), Target: q.Get("target"), NoCache: boolean(r, "nocache"), Pull: boolean(r, "pull")}
	if q.Get("dockerfile") == "" {
		b.Dockerfile = "Dockerfile"
	}
	if path.IsAbs(b.Dockerfile) || b.Dockerfile == ".." || strings.HasPrefix(b.Dockerfile, "../") {
		return b, nil, invalid("the Dockerfile %q is not within the build context", b.Dockerfile)
	}
	for name, why := range map[string]string{
		"memswap": "limits are the builder's", "cpushares": "limits are the builder's", "cpuperiod": "limits are the builder's", "cpuquota": "limits are the builder's",
		"cpusetmems": "limits are the builder's", "shmsize": "limits are the builder's", "ulimits": "limits are the builder's", "isolation": "this is Linux",
		"remote": "the client sends the context", "squash": "layers stay as they are built", "memory": "limits are the builder's", "cpusetcpus": "limits are the builder's",
		"cgroupparent": "control groups are the builder's", "extrahosts": "steps resolve names as the host does", "outputs": "the image goes to the machine's images",
	} {
		if v := q.Get(name); v != "" && v != "0" && v != "default" && v != "{}" && v != "[]" && v != "null" {
			return b, nil, invalid("the build parameter %s is not possible: %s", name, why)
		}
	}
	b.NoNetwork = q.Get("networkmode") == "none"
	if mode := q.Get("networkmode"); !b.NoNetwork && mode != "" && mode != "default" && mode != "host" && mode != "bridge" {
		return b, nil, invalid("--network %s is not possible for a build: there are default and none", mode)
	}
	if p := q.Get("platform"); p != "" && !platformFits(p) {
		return b, nil, invalid("platform %s is not possible: images are built for linux/%s", p, goarch)
	}
	var args map[string]*string
	for name, to := range map[string]any{"buildargs": &args, "labels": &b.Labels} {
		if text := q.Get(name); text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return b, nil, invalid("invalid %s: %v", name, err)
			}
		}
	}
	b.Args = map[string]string{}
	for k, v := range args {
		if v != nil {
			b.Args[k] = *v
		}
	}
	for _, t := range q["t"] {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return b, nil, invalid("invalid tag %q: %v", t, err)
		}
		tags = append(tags, reference.TagNameOnly(named).String())
	}
	return b, tags, nil
}

func receiveContext(r *http.Request, dir string) error {
	body, err := decompressed(r.Body)
	if err != nil {
		return err
	}
	defer body.Close()
	into, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer into.Close()
	return unpack(body, into, unpackLimits{bytes: maxContextBytes, files: maxContextFiles, plain: true})
}

// build has the builder build and takes the image in under its names.
func (s *Server) build(ctx context.Context, b Build, tags []string, out *messages) (*image.Image, error) {
	b.Name = untagged + ":" + randomID()[:32]
	if len(tags) > 0 {
		b.Name = tags[0]
	}
	reader, writer := io.Pipe()
	var wg sync.WaitGroup
	var img *image.Image
	var taken error
	wg.Go(func() {
		var list []*image.Image
		list, taken = s.cfg.Images.Import(ctx, reader, b.Name, nil)
		if len(list) > 0 {
			img = list[0]
		}
		_, _ = io.Copy(io.Discard, reader) // what is behind the archive's end
		reader.CloseWithError(errors.New("the image could not be taken in"))
	})
	err := s.cfg.Builder.Build(ctx, b, displayOf(out), writer)
	if err != nil {
		writer.CloseWithError(err)
	}
	wg.Wait()
	if err == nil {
		err = taken
	}
	if err != nil {
		return nil, fullDisk(err)
	}
	for _, tag := range tags[min(1, len(tags)):] {
		if _, err := s.cfg.Images.Tag(ctx, img.Name, tag); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// display sends what is said of a build as lines of the stream.
type display struct {
	mu  sync.Mutex
	out *messages
}

func displayOf(out *messages) *display { return &display{out: out} }

func (d *display) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out.send(message{Stream: string(p)})
	return len(p), nil
}

// serveBuildPrune is answered for `docker system prune`: the builder keeps its cache
// within bounds by itself.
func (s *Server) serveBuildPrune(w http.ResponseWriter, _ *http.Request) error {
	return ok(w, build.CachePruneReport{CachesDeleted: []string{}})
}
