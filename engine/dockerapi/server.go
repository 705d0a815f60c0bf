package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/internal/hint"
)

// The versions of the API that are spoken.
const (
	apiVersion    = "1.51"
	minAPIVersion = "1.24"
)

// Namespace is where the pods of these containers are.
const Namespace = "docker"

// SocketName is the file under the data directory that docker connects to.
const SocketName = "docker.sock"

// Machine is what the node agent does beyond the Kubernetes API. A pod is named without
// its namespace, which is [Namespace]; errors for one that does not run satisfy
// errors.Is(err, fs.ErrNotExist).
type Machine interface {
	Attach(ctx context.Context, namespace, pod string, s runtime.Streams) error
	Exec(ctx context.Context, namespace, pod, user string, e runtime.Exec, s runtime.Streams) (exitCode int, err error)
	Signal(ctx context.Context, namespace, pod string, signal int, all bool) error
	Stats(ctx context.Context, namespace, pod string) (runtime.Stats, error)
	Pause(ctx context.Context, namespace, pod string) error
	Resume(ctx context.Context, namespace, pod string) error
	LimitProcesses(ctx context.Context, namespace, pod string, limit int64) error // -1 is none
	PID(ctx context.Context, namespace, pod string) int
	Log(ctx context.Context, namespace, pod string, opt *v1.PodLogOptions, stdout, stderr io.Writer) error
	User(rootfs, spec string) (runtime.User, error)
}

// Builder builds images.
type Builder interface {
	// Build builds dir and gives the image as an archive. What is said of the build goes to
	// display as text.
	Build(ctx context.Context, b Build, display io.Writer, archive io.WriteCloser) error
	// Dial connects to the BuildKit worker, which it starts when there is none.
	Dial(ctx context.Context) (net.Conn, error)
}

// Build describes a build of the classic protocol.
type Build struct {
	Dir, Dockerfile string // the context's directory, and the file below it
	Target          string
	Args, Labels    map[string]string
	NoCache, Pull   bool
	NoNetwork       bool   // steps reach nothing
	Name            string // of the image in the archive
}

// Config says what the API is served from.
type Config struct {
	Client   *rest.Config                                                 // identity [User], with the rights that Ensure gives
	Ensure   func(context.Context) error                                  // makes the namespace and the rights; called before the first use
	Machine  Machine                                                      //
	Images   *image.Store                                                 //
	Builder  Builder                                                      //
	Login    func(ctx context.Context, host, user, password string) error // checks credentials with a registry
	DataDir  string                                                       // volumes and logs are kept under DataDir/docker
	PodCIDR  netip.Prefix                                                 //
	HostIP   netip.Addr                                                   // how pods reach this machine
	Version  string                                                       // Gantry's
	Registry string                                                       // host:port of the built-in registry
	Log      *slog.Logger                                                 // nil is slog.Default()
}

// Server answers the Docker Engine API. It is safe for concurrent use.
type Server struct {
	cfg    Config
	dir    string // DataDir/docker
	client kubernetes.Interface
	log    *slog.Logger
	mux    *http.ServeMux
	id     string // of this instance
	events eventBus
	execs  execTable

	begin      sync.Mutex // guards what follows
	started    types.UID  // of the namespace that is followed, "" before the first request
	stopKeeper context.CancelFunc
	lifeCtx    context.Context // ends with Run

	starting sync.Mutex // one chooses ports at a time
	naming   sync.Mutex // one writes names at a time

	mu         sync.Mutex            // guards what follows
	containers map[string]*container // by id
	networks   map[string]*networkRecord
	volumes    map[string]*volumeRecord
}

// New returns a server. It does nothing before [Server.Run] and the first request.
func New(cfg Config) (*Server, error) {
	client, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("serve the Docker API: %w", err)
	}
	s := &Server{cfg: cfg, client: client, log: cfg.Log, dir: filepath.Join(cfg.DataDir, "docker"),
		containers: map[string]*container{}, networks: map[string]*networkRecord{}, volumes: map[string]*volumeRecord{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.mux = s.routes()
	return s, nil
}

// Run looks after the containers until ctx ends. Until the first request it only does
// so when there are any.
func (s *Server) Run(ctx context.Context) error {
	s.begin.Lock()
	s.lifeCtx = ctx
	s.begin.Unlock()
	namespace, err := s.namespace(ctx)
	if err != nil {
		return err
	}
	if namespace != nil {
		if err := s.ready(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("look after docker's containers; it is tried again at the next request", "err", err)
		}
	}
	<-ctx.Done()
	return nil
}

// ready makes and reads what is kept in the API, once, and starts to watch the pods.
func (s *Server) ready(ctx context.Context) error {
	s.begin.Lock()
	defer s.begin.Unlock()
	if s.started != "" {
		namespace, err := s.namespace(ctx)
		if err != nil {
			return err
		}
		if namespace != nil && namespace.UID == s.started && namespace.DeletionTimestamp == nil {
			return nil
		}
		s.forget()
	}
	if s.lifeCtx == nil {
		return unavailable("the engine is starting")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := s.awaitDeletion(ctx); err != nil {
		return err
	}
	if err := s.cfg.Ensure(ctx); err != nil {
		return err
	}
	namespace, err := s.namespace(ctx)
	if err != nil {
		return err
	}
	if namespace == nil {
		return unavailable("namespace %s has just been deleted: try again", Namespace)
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	if err := s.makePolicy(ctx, s.builtIn(network.NetworkBridge)); err != nil {
		return err
	}
	keeping, stop := context.WithCancel(s.lifeCtx)
	if err := s.startKeeper(keeping); err != nil {
		stop()
		return err
	}
	s.started, s.stopKeeper = namespace.UID, stop
	return nil
}

// forget gives up everything that was in a namespace which somebody has deleted: its
// containers are gone. What they had on the disk is removed by the next load. The caller
// holds s.begin.
func (s *Server) forget() {
	s.stopKeeper()
	s.started = ""
	s.mu.Lock()
	gone := s.containers
	for _, c := range gone {
		c.gone = true
		c.wake()
	}
	s.containers, s.networks, s.volumes = map[string]*container{}, map[string]*networkRecord{}, map[string]*volumeRecord{}
	s.mu.Unlock()
	for _, c := range gone {
		r := s.recordOf(c)
		s.containerEvent(&r, events.ActionDestroy, nil)
	}
	s.log.Warn("namespace "+Namespace+" was deleted, and docker's containers, networks and volumes with it", "containers", len(gone))
}

// awaitDeletion waits until a namespace that is being deleted is gone.
func (s *Server) awaitDeletion(ctx context.Context) error {
	for {
		namespace, err := s.namespace(ctx)
		if err != nil || namespace == nil || namespace.DeletionTimestamp == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return unavailable("namespace %s is being deleted, and does not go: `kubectl get namespace %s -o yaml` says what it waits for", Namespace, Namespace)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var versionPrefix = regexp.MustCompile(`^/v([0-9]+)\.([0-9]+)(/.*)$`)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Api-Version", apiVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", "Docker/"+s.cfg.Version+" (linux; Gantry)")
	if m := versionPrefix.FindStringSubmatch(r.URL.Path); m != nil {
		if err := checkVersion(m[1], m[2]); err != nil {
			fail(w, err)
			return
		}
		r2 := r.Clone(r.Context())
		r2.URL.Path, r2.URL.RawPath = m[3], ""
		r = r2
	}
	if r.URL.Path != "/_ping" {
		if err := s.ready(r.Context()); err != nil {
			fail(w, err)
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

func checkVersion(major, minor string) error {
	var have, low, high int
	fmt.Sscan(minor, &have)
	fmt.Sscan(strings.TrimPrefix(minAPIVersion, "1."), &low)
	fmt.Sscan(strings.TrimPrefix(apiVersion, "1."), &high)
	switch {
	case major != "1" || have > high:
		return invalid("client version %s.%s is too new. Maximum supported API version is %s", major, minor, apiVersion)
	case have < low:
		return invalid("client version %s.%s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", major, minor, minAPIVersion)
	}
	return nil
}

// handler is a request whose error becomes the answer.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, group := range []map[string]handler{s.systemRoutes(), s.containerRoutes(), s.streamRoutes(), s.imageRoutes(), s.networkRoutes(), s.volumeRoutes()} {
		for pattern, h := range group {
			mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				if err := h(w, r); err != nil {
					fail(w, err)
				}
			})
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{"/swarm", "/services", "/tasks", "/nodes", "/secrets", "/configs", "/plugins"} {
			if strings.HasPrefix(r.URL.Path, part) && !(part == "/plugins" && r.Method == http.MethodGet) {
				fail(w, &apiError{http.StatusServiceUnavailable, "This node is not a swarm manager: Gantry orchestrates with the Kubernetes API (kubectl, gantry up); Swarm commands and plugins have no counterpart here"})
				return
			}
		}
		fail(w, &apiError{http.StatusNotFound, "page not found"})
	})
	return mux
}

// apiError is an answer other than success.
type apiError struct {
	code int
	text string
}

func (e *apiError) Error() string { return e.text }

func invalid(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}
func notFound(format string, args ...any) error {
	return &apiError{http.StatusNotFound, fmt.Sprintf(format, args...)}
}
func conflict(format string, args ...any) error {
	return &apiError{http.StatusConflict, fmt.Sprintf(format, args...)}
}
func unavailable(format string, args ...any) error {
	return &apiError{http.StatusServiceUnavailable, fmt.Sprintf(format, args...)}
}

// notModified is the answer to a start or stop that changes nothing.
var notModified = &apiError{http.StatusNotModified, ""}

// fail answers with an error in the engine's form. After the answer has begun it does
// nothing that a client would see.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var ae *apiError
	switch {
	case errors.As(err, &ae):
		code = ae.code
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), errors.Is(err, image.ErrBadName):
		code = http.StatusBadRequest
	case apierrors.IsConflict(err), errors.Is(err, image.ErrInUse):
		code = http.StatusConflict
	case errors.Is(err, fs.ErrNotExist):
		code = http.StatusNotFound
	case errors.Is(err, image.ErrUnauthorized):
		code = http.StatusUnauthorized
	}
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	answer(w, code, map[string]string{"message": explain(err)})
}

// explain is an error with what to do about it, in one text.
func explain(err error) string {
	if h := hint.Of(err); h != "" {
		return err.Error() + " (" + h + ")"
	}
	return err.Error()
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}

// ok answers with a value.
func ok(w http.ResponseWriter, v any) error {
	answer(w, http.StatusOK, v)
	return nil
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxRequest bounds a request's JSON.
const maxRequest = 4 << 20

// decode reads a request's JSON, to the end of the body: what follows that on the connection
// may be somebody's input. An empty body leaves v as it is.
func decode(r *http.Request, v any) error {
	body := io.LimitReader(r.Body, maxRequest)
	err := json.NewDecoder(body).Decode(v)
	_, _ = io.Copy(io.Discard, body) // a broken connection shows soon enough
	if err != nil && !errors.Is(err, io.EOF) {
		return invalid("invalid JSON: %v", err)
	}
	return nil
}

// boolean reads a query parameter as docker does.
func boolean(r *http.Request, name string) bool {
	v := strings.ToLower(strings.TrimSpace(r.FormValue(name)))
	return v != "" && v != "0" && v != "no" && v != "false" && v != "none"
}
