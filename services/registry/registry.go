package registry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/librarylog"
)

// Config says where the registry keeps its files and who may use it.
type Config struct {
	DataDir string // files are kept under DataDir/registry

	// Authorize decides about each request; nil lets everybody in, which is
	// right only on a loopback address.
	Authorize Authorizer

	// MinFreeBytes is the free disk space below which uploads are refused, so
	// that the rest of the machine keeps working. 0 means 64 MiB.
	MinFreeBytes int64

	Log *slog.Logger // nil means slog.Default()
}

const (
	defaultMinFree = 64 << 20
	catalogPage    = 1000
	maxThreads     = 32 // concurrent file operations

)

// Registry serves the distribution API under /v2/ and its health at /healthz.
type Registry struct {
	app       *handlers.App
	driver    driver.StorageDriver
	dir       string
	minFree   int64
	authorize Authorizer
	log       *slog.Logger

	// writing is held shared by requests that change something, exclusively by
	// Collect: a blob may not vanish between its upload and its manifest.
	writing sync.RWMutex
}

// New opens the registry under cfg.DataDir, creating it when it does not exist.
func New(cfg Config) (*Registry, error) {
	r := &Registry{
		dir:       filepath.Join(cfg.DataDir, "registry"),
		minFree:   cfg.MinFreeBytes,
		authorize: cfg.Authorize,
		log:       cfg.Log,
	}
	if r.minFree == 0 {
		r.minFree = defaultMinFree
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	librarylog.Redirect(r.log)
	r.driver = filesystem.New(filesystem.DriverParameters{RootDirectory: r.dir, MaxThreads: maxThreads})
	if err := r.start(); err != nil {
		return nil, fmt.Errorf("open registry %s: %w", r.dir, err)
	}
	return r, nil
}

// start makes the handlers. Upstream reports bad configuration by panicking.
func (r *Registry) start() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": r.dir, "maxthreads": maxThreads},
			"delete":     configuration.Parameters{"enabled": true},
			// Files are served by this process: there is nowhere to redirect to.
			"redirect": configuration.Parameters{"disable": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{
				"enabled": true, "age": "24h", "interval": "6h", "dryrun": false,
			}},
		},
	}
	c.Catalog.MaxEntries = catalogPage
	// A multi-platform index is accepted when only some of its images are
	// here: that is what mirroring one platform of it looks like.
	c.Validation.Manifests.Indexes.Platforms = "none"
	r.app = handlers.NewApp(context.Background(), c)
	return nil
}

// Close stops background work. Requests must have ended before.
func (r *Registry) Close() error { return r.app.Shutdown() }

// ServeHTTP serves one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/healthz" {
		r.serveHealth(w)
		return
	}
	if r.authorize == nil && !local(req.Host) {
		writeError(w, http.StatusMisdirectedRequest, "DENIED", "this registry has no login and answers only at a loopback address, not as "+req.Host)
		return
	}
	if r.authorize != nil {
		if err := r.authorize.Authorize(req, accesses(req)); err != nil {
			refuse(w, err)
			return
		}
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		if err := r.room(r.spaceFor(req)); err != nil {
			writeError(w, http.StatusInsufficientStorage, "DENIED", err.Error())
			return
		}
		if req.ContentLength < 0 { // as Docker sends layers
			req.Body = &watched{ReadCloser: req.Body, room: func() error { return r.room(r.minFree / 2) }}
		}
		r.writing.RLock()
		defer r.writing.RUnlock()
	}
	r.app.ServeHTTP(w, req)
}

// spaceFor is the free disk space a request needs to be accepted. A new upload
// needs the reserve; one that was let in may finish as long as it fits.
func (r *Registry) spaceFor(req *http.Request) int64 {
	switch req.Method {
	case http.MethodPost:
		return r.minFree
	case http.MethodPatch, http.MethodPut:
		return req.ContentLength // -1 when unknown
	}
	return 0
}

// watched is an upload of unknown length. It may use half of the reserve, so that
// what was let in has a chance to finish, and then ends with an error.
type watched struct {
	io.ReadCloser
	room   func() error
	unseen int // bytes read since the last look
}

// lookEvery bounds what is written between two looks at the disk.
const lookEvery = 1 << 20

func (w *watched) Read(p []byte) (int, error) {
	if w.unseen >= lookEvery {
		if err := w.room(); err != nil {
			return 0, err
		}
		w.unseen = 0
	}
	n, err := w.ReadCloser.Read(p)
	w.unseen += n
	return n, err
}

func (r *Registry) serveHealth(w http.ResponseWriter) {
	if err := r.room(r.minFree); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // a client that is gone needs no answer
}

// room is nil when that many bytes of disk are free.
func (r *Registry) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return fmt.Errorf("registry storage %s: %w", r.dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("registry storage %s has only %d MiB left: free disk space or delete images, then push again", r.dir, free>>20)
	}
	return nil
}
