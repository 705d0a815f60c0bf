package dockerapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/image"
)

// message is one line of a stream of progress, with the fields of every version.
type message struct {
	Stream      string       `json:"stream,omitempty"`
	Status      string       `json:"status,omitempty"`
	ID          string       `json:"id,omitempty"`
	Progress    string       `json:"progress,omitempty"`
	Detail      *progress    `json:"progressDetail,omitempty"`
	ErrorDetail *errorDetail `json:"errorDetail,omitempty"`
	Error       string       `json:"error,omitempty"`
	Aux         any          `json:"aux,omitempty"`
}

type progress struct {
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

type errorDetail struct {
	Message string `json:"message"`
}

// messages is an answer of many lines. It begins with the first one.
type messages struct {
	w     http.ResponseWriter
	begun bool
}

func (m *messages) send(msg message) {
	if !m.begun {
		m.begun = true
		m.w.Header().Set("Content-Type", "application/json")
		m.w.WriteHeader(http.StatusOK)
	}
	writeJSON(m.w, msg)
	_ = http.NewResponseController(m.w).Flush()
}

// fail ends the stream; before its first line it is an ordinary error.
func (m *messages) fail(err error) error {
	if err == nil || !m.begun {
		return err
	}
	text := explain(err)
	m.send(message{ErrorDetail: &errorDetail{text}, Error: text})
	return nil
}

// keychain reads the credentials that a client sends along.
func keychain(r *http.Request) (image.Keychain, error) {
	auth, err := authOf(r.Header.Get(registry.AuthHeader))
	if err != nil || auth == nil {
		return nil, err
	}
	return func(string) (string, string, bool) { return auth.Username, auth.Password, true }, nil
}

func authOf(header string) (*registry.AuthConfig, error) {
	if header == "" {
		return nil, nil
	}
	blob, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		if blob, err = base64.RawURLEncoding.DecodeString(header); err != nil {
			return nil, invalid("the credentials in %s are not base64", registry.AuthHeader)
		}
	}
	var auth registry.AuthConfig
	if err := json.Unmarshal(blob, &auth); err != nil {
		return nil, invalid("the credentials in %s are not JSON", registry.AuthHeader)
	}
	if auth.Auth != "" && auth.Username == "" {
		if pair, err := base64.StdEncoding.DecodeString(auth.Auth); err == nil {
			auth.Username, auth.Password, _ = strings.Cut(string(pair), ":")
		}
	}
	if auth.IdentityToken != "" {
		auth.Username, auth.Password = "", auth.IdentityToken
	}
	if auth.Username == "" && auth.Password == "" {
		return nil, nil
	}
	return &auth, nil
}

// serveImageCreate pulls an image, or imports a root file system.
func (s *Server) serveImageCreate(w http.ResponseWriter, r *http.Request) error {
	if r.FormValue("fromSrc") != "" {
		return s.serveImport(w, r)
	}
	ref, tag := r.FormValue("fromImage"), r.FormValue("tag")
	if p := r.FormValue("platform"); p != "" && !platformFits(p) {
		return invalid("platform %s is not possible: images here are for linux/%s", p, goarch)
	}
	switch {
	case tag == "":
		if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) && boolean(r, "all") {
			return invalid("pulling all tags is not possible: name one")
		}
	case strings.Contains(tag, ":"):
		ref += "@" + tag
	default:
		ref += ":" + tag
	}
	keys, err := keychain(r)
	if err != nil {
		return err
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return invalid("invalid reference format: %v", err)
	}
	out := &messages{w: w}
	before, _ := s.cfg.Images.Get(r.Context(), ref) // nil when it is new
	what := ref
	if t, ok := named.(reference.Tagged); ok {
		what = t.Tag()
	}
	out.send(message{Status: "Pulling from " + reference.FamiliarName(named), ID: what})
	img, err := s.cfg.Images.Pull(r.Context(), ref, image.PullOptions{Keychain: keys, Progress: out.transfer("Downloading", "Extracting")})
	if err != nil {
		return out.fail(err)
	}
	out.send(message{Status: "Digest: " + img.Digest})
	status := "Downloaded newer image for "
	if before != nil && before.Digest == img.Digest {
		status = "Image is up to date for "
	}
	out.send(message{Status: "Status: " + status + image.FamiliarName(img.Name)})
	s.event(events.ImageEventType, events.ActionPull, image.FamiliarName(img.Name), map[string]string{"name": reference.FamiliarName(named)})
	return nil
}

// transfer shows how far a pull or push is, as one bar.
func (m *messages) transfer(moving, after string) func(image.Progress) {
	return func(p image.Progress) {
		if p.Total == 0 {
			return
		}
		status := moving
		if p.Stage == image.Unpacking {
			status = after
		}
		m.send(message{ID: "layers", Status: status, Detail: &progress{p.Bytes, p.Total},
			Progress: fmt.Sprintf("%d of %d, %.1f of %.1f MB", p.LayersDone, p.Layers, float64(p.Bytes)/1e6, float64(p.Total)/1e6)})
	}
}

func (s *Server) servePush(w http.ResponseWriter, r *http.Request, name string) error {
	if tag := r.FormValue("tag"); tag != "" {
		name += ":" + tag
	}
	keys, err := keychain(r)
	if err != nil {
		return err
	}
	img, err := s.cfg.Images.Get(r.Context(), name)
	if err != nil {
		return notFound("An image does not exist locally with the tag: %s", name)
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return invalid("invalid reference format: %v", err)
	}
	out := &messages{w: w}
	out.send(message{Status: "The push refers to repository [" + named.Name() + "]"})
	digest, size, err := s.cfg.Images.PushDigest(r.Context(), name, named.String(), image.PullOptions{Keychain: keys, Progress: out.transfer("Pushing", "Pushed")})
	if err != nil {
		return out.fail(err)
	}
	tag := ""
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	out.send(message{Status: fmt.Sprintf("%s: digest: %s size: %d", tag, digest, size)})
	out.send(message{Detail: &progress{}, Aux: map[string]any{"Tag": tag, "Digest": digest, "Size": size}})
	s.event(events.ImageEventType, events.ActionPush, image.FamiliarName(img.Name), map[string]string{"name": reference.FamiliarName(named)})
	return nil
}

func (s *Server) serveImageSave(w http.ResponseWriter, r *http.Request, name string) error {
	return s.saveImages(w, r, []string{name})
}

func (s *Server) serveImagesSave(w http.ResponseWriter, r *http.Request) error {
	return s.saveImages(w, r, r.URL.Query()["names"])
}

func (s *Server) saveImages(w http.ResponseWriter, r *http.Request, names []string) error {
	if len(names) == 0 {
		return invalid("no images to save were named")
	}
	var refs []string
	for _, name := range names {
		img, err := s.image(r.Context(), name)
		if err != nil {
			return err
		}
		refs = append(refs, img.Name)
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := s.cfg.Images.Export(r.Context(), w, refs...); err != nil {
		s.log.Warn("save images", "err", err)
		panic(http.ErrAbortHandler) // the archive is cut off: so must be the connection
	}
	return nil
}

func (s *Server) serveImageLoad(w http.ResponseWriter, r *http.Request) error {
	// Nothing may be written before the archive was read: HTTP/1 would stop taking the body.
	list, err := s.cfg.Images.Import(r.Context(), r.Body, "", nil)
	if err != nil {
		return refuseDamage(err)
	}
	out := &messages{w: w}
	for _, img := range list {
		out.send(message{Stream: "Loaded image: " + image.FamiliarName(img.Name) + "\n"})
		s.event(events.ImageEventType, events.ActionLoad, img.ID, map[string]string{"name": image.FamiliarName(img.Name)})
	}
	return nil
}

// serveAuth checks what `docker login` was given.
func (s *Server) serveAuth(w http.ResponseWriter, r *http.Request) error {
	var auth registry.AuthConfig
	if err := decode(r, &auth); err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(auth.ServerAddress, "https://"), "http://"), "/")
	if host == "" || host == "index.docker.io/v1" {
		host = "docker.io"
	}
	if err := s.cfg.Login(r.Context(), host, auth.Username, auth.Password); err != nil {
		return &apiError{http.StatusUnauthorized, fmt.Sprintf("login attempt to %s failed: %v", host, err)}
	}
	return ok(w, registry.AuthResponse{Status: "Login Succeeded"})
}

// serveDistribution tells what a registry has under a name.
func (s *Server) serveDistribution(w http.ResponseWriter, r *http.Request) error {
	name, is := strings.CutSuffix(r.PathValue("name"), "/json")
	if !is {
		return notFound("page not found")
	}
	keys, err := keychain(r)
	if err != nil {
		return err
	}
	target, platforms, err := s.cfg.Images.Resolve(r.Context(), name, keys)
	if err != nil {
		return err
	}
	return ok(w, registry.DistributionInspect{Descriptor: target, Platforms: platforms})
}

// imagesOfPods are the digests that pods of any namespace use.
func (s *Server) imagesOfPods(ctx context.Context) (map[string]bool, error) {
	pods, err := s.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("look which images pods use: %w", err)
	}
	used := map[string]bool{}
	for _, pod := range pods.Items {
		for _, cs := range append(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses...) {
			_, digest, _ := strings.Cut(cs.ImageID, "@")
			used[digest] = true
		}
	}
	return used, nil
}

// platformFits is whether a platform is this machine's.
func platformFits(p string) bool {
	p = strings.ToLower(p)
	if strings.HasPrefix(p, "{") { // newer clients send JSON
		var v struct{ OS, Architecture string }
		if json.Unmarshal([]byte(p), &v) != nil {
			return false
		}
		p = v.OS + "/" + v.Architecture
	}
	os, arch, hasArch := strings.Cut(p, "/")
	arch, _, _ = strings.Cut(arch, "/")
	return os == "linux" && (!hasArch || arch == goarch) || !hasArch && os == goarch
}
