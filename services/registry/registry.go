package registry

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// Registry serves the distribution API under /v2/ and its health at /healthz.
type Registry struct {
	id      string // of this one, by which it knows itself
	store   *storage.Store
	dir     string
	minFree int64
	login   Login
	policy  Policies
	usage   usage
	metrics *metrics
	flights singleflight.Group // fetches from upstreams
	open    bool               // there is no login
	pushed  func(Event)
	log     *slog.Logger
}

const defaultMinFree = 64 << 20

// New opens the registry under cfg.DataDir, creating it when it does not exist.
func New(cfg Config) (*Registry, error) {
	r := &Registry{
		id:  rand.Text(),
		dir: filepath.Join(cfg.DataDir, "registry"), minFree: cfg.MinFreeBytes,
		login: cfg.Login, policy: cfg.Policies, pushed: cfg.Pushed, log: cfg.Log,
	}
	if r.minFree == 0 {
		r.minFree = defaultMinFree
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if r.login == nil {
		r.login, r.open = anybody{}, true
	}
	if r.policy == nil {
		r.policy = noPolicies{}
	}
	if r.pushed == nil {
		r.pushed = func(Event) {}
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	var bucket *storage.Bucket
	var err error
	if cfg.Storage != "" {
		if bucket, err = storage.NewBucket(cfg.Storage); err != nil {
			return nil, fmt.Errorf("open registry: %w", err)
		}
	}
	if r.store, err = storage.Open(r.dir, bucket); err != nil {
		return nil, fmt.Errorf("open registry %s: %w", r.dir, err)
	}
	r.usage.store = r.store
	r.metrics = newMetrics(cfg.Register)
	if cfg.Register != nil {
		cfg.Register(&held{r: r})
	}
	r.store.OnRemoval(func(name string) { r.usage.forget(Namespace(name)) })
	return r, nil
}

// Namespace is the namespace that a repository belongs to: the first part of its name.
// One whose name has a single part belongs to none.
func Namespace(repository string) string {
	namespace, _, ok := strings.Cut(repository, "/")
	if !ok {
		return ""
	}
	return namespace
}

// File returns the path of the file that holds a blob or manifest of a repository. It
// never changes, so it may be linked elsewhere instead of being pulled; it may be
// removed at any time.
func (r *Registry) File(repository string, d digest.Digest) (path string, ok bool) {
	if storage.CheckName(repository) != nil {
		return "", false
	}
	if _, err := storage.ParseDigest(d.String()); err != nil {
		return "", false
	}
	return r.store.File(repository, d)
}

// ServeHTTP serves one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/healthz" {
		r.serveHealth(w)
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.open && !IsLocal(req.Host) {
		r.refuse(w, req, &refusal{status: http.StatusMisdirectedRequest, code: "DENIED", message: "this registry has no login and answers only at a loopback address, not as " + req.Host})
		return
	}
	if req.Header.Get(selfHeader) == r.id {
		r.refuse(w, req, &refusal{status: http.StatusLoopDetected, code: "UNAVAILABLE", message: "this registry is its own upstream"})
		return
	}
	recorded := &recorder{ResponseWriter: w}
	at, err := parsePath(req.URL.Path)
	if err == nil {
		err = r.serve(recorded, req, at)
	}
	if err != nil {
		r.refuse(recorded, req, err)
	}
	r.metrics.count(at.kind, req.Method, recorded)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request, at route) error {
	c := call{Registry: r, w: w, req: req, route: at}
	var err error
	if at.kind != token { // where clients log in
		if c.caller, err = r.login.Login(req); err != nil {
			return err
		}
	}
	if err := r.store.Ready(); err != nil {
		return &refusal{status: http.StatusServiceUnavailable, code: "UNAVAILABLE", message: err.Error()}
	}
	if at.name != "" {
		reads := req.Method == http.MethodGet || req.Method == http.MethodHead
		if c.holds, err = r.policy.Of(at.name); err != nil && !reads {
			return &refusal{status: http.StatusServiceUnavailable, code: "UNAVAILABLE", message: err.Error()}
		}
		if c.holds.Upstream != nil {
			if err := c.refuseWrites(); err != nil {
				return err
			}
		}
	}
	handle := endpoints[at.kind][req.Method]
	if handle == nil {
		return &refusal{status: http.StatusMethodNotAllowed, code: "UNSUPPORTED", message: req.Method + " is not supported here"}
	}
	return handle(&c)
}

// call is one request.
type call struct {
	*Registry
	w      http.ResponseWriter
	req    *http.Request
	caller Caller
	holds  Policy
	route
}

// may asks for a right in the request's repository.
func (c *call) may(action Action) error {
	return c.caller.May(c.req.Context(), action, c.name)
}

// endpoints is the distribution API.
var endpoints = map[kind]map[string]func(*call) error{
	version:  {http.MethodGet: (*call).version, http.MethodHead: (*call).version},
	token:    {http.MethodGet: (*call).giveToken, http.MethodPost: (*call).giveToken},
	catalog:  {http.MethodGet: (*call).catalog},
	tags:     {http.MethodGet: (*call).tags},
	referrer: {http.MethodGet: (*call).referrers},
	manifest: {
		http.MethodGet: (*call).getManifest, http.MethodHead: (*call).getManifest,
		http.MethodPut: (*call).putManifest, http.MethodDelete: (*call).deleteManifest,
	},
	blob:    {http.MethodGet: (*call).getBlob, http.MethodHead: (*call).getBlob, http.MethodDelete: (*call).deleteBlob},
	uploads: {http.MethodPost: (*call).beginUpload},
	upload: {
		http.MethodGet: (*call).uploadStatus, http.MethodPatch: (*call).sendChunk,
		http.MethodPut: (*call).endUpload, http.MethodDelete: (*call).cancelUpload,
	},
}

// version answers the question whether this is a registry and the login is right.
func (c *call) version() error {
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write([]byte("{}")) // a client that is gone needs no answer
	return nil
}
