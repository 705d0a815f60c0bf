package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gantryhq/gantry/internal/hint"
)

// SocketName is the file under DataDir/run that [Store.Serve] listens on. The
// database is locked by `gantry serve`, so other processes ask it.
const SocketName = "images.sock"

const headerPatience = 10 * time.Second

// Summary is an image as the API tells it.
type Summary struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	ID        string    `json:"id"`
	SizeBytes int64     `json:"sizeBytes"`
	Created   time.Time `json:"created,omitzero"`
}

func summary(i *Image) *Summary {
	s := &Summary{Name: i.Name, Digest: i.Digest, ID: i.ID, SizeBytes: i.Size}
	if i.Config.Created != nil {
		s.Created = *i.Config.Created
	}
	return s
}

// transferRequest asks for a pull or push.
type transferRequest struct {
	Ref      string `json:"ref"`
	Name     string `json:"name,omitempty"` // push: under which name; "" means Ref
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
}

func (t transferRequest) keychain() Keychain {
	if t.User == "" && t.Password == "" {
		return nil
	}
	return func(string) (string, string, bool) { return t.User, t.Password, true }
}

// event is one line of a transfer's answer. The last one has Images or Error.
type event struct {
	Progress *Progress  `json:"progress,omitempty"`
	Images   []*Summary `json:"images,omitempty"`
	Error    string     `json:"error,omitempty"`
	Hint     string     `json:"hint,omitempty"`
}

// Handler serves the store to other processes of the same user: list, pull,
// push, tag, remove, import and export. It does not authenticate: serve it on a
// socket that only root can open. [Client] speaks to it.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/images", s.serveList)
	mux.HandleFunc("DELETE /v1/images", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, s.Remove(r.Context(), r.FormValue("ref")))
	})
	mux.HandleFunc("POST /v1/tag", func(w http.ResponseWriter, r *http.Request) {
		_, err := s.Tag(r.Context(), r.FormValue("ref"), r.FormValue("name"))
		answer(w, nil, err)
	})
	mux.HandleFunc("POST /v1/pull", s.servePull)
	mux.HandleFunc("POST /v1/push", s.servePush)
	mux.HandleFunc("POST /v1/import", s.serveImport)
	mux.HandleFunc("GET /v1/export", s.serveExport)
	return mux
}

// Serve serves [Store.Handler] on DataDir/run/images.sock, which only root can
// open, until ctx ends. Requests in progress are cut off then.
func (s *Store) Serve(ctx context.Context) error {
	socket := filepath.Join(filepath.Dir(s.roots), SocketName)
	// The database is locked by us: a socket that exists is a leftover.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serve images: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("serve images: %w", err)
	}
	// Until here the umask kept others from writing, which connecting needs.
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("serve images: %w", err), listener.Close())
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: headerPatience}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve images: %w", err)
	}
	return nil
}

func (s *Store) serveList(w http.ResponseWriter, r *http.Request) {
	list, err := s.List(r.Context())
	if err != nil {
		answer(w, nil, err)
		return
	}
	answer(w, summaries(list), nil)
}

func summaries(list []*Image) []*Summary {
	out := make([]*Summary, 0, len(list))
	for _, img := range list {
		out = append(out, summary(img))
	}
	return out
}

func (s *Store) servePull(w http.ResponseWriter, r *http.Request) {
	var req transferRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, nil, fmt.Errorf("read request: %w", err))
		return
	}
	out := newEventWriter(w)
	img, err := s.Pull(r.Context(), req.Ref, PullOptions{Keychain: req.keychain(), Progress: out.progress})
	if err != nil {
		out.fail(err)
		return
	}
	out.send(event{Images: []*Summary{summary(img)}})
}

func (s *Store) servePush(w http.ResponseWriter, r *http.Request) {
	var req transferRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, nil, fmt.Errorf("read request: %w", err))
		return
	}
	if req.Name == "" {
		req.Name = req.Ref
	}
	out := newEventWriter(w)
	if err := s.Push(r.Context(), req.Ref, req.Name, PullOptions{Keychain: req.keychain(), Progress: out.progress}); err != nil {
		out.fail(err)
		return
	}
	img, err := s.Get(r.Context(), req.Ref)
	if err != nil {
		out.fail(err)
		return
	}
	out.send(event{Images: []*Summary{summary(img)}})
}

func (s *Store) serveImport(w http.ResponseWriter, r *http.Request) {
	// Nothing may be written before the archive was read: HTTP/1 would stop
	// taking the body.
	list, err := s.Import(r.Context(), r.Body, r.URL.Query().Get("name"), nil)
	out := newEventWriter(w)
	if err != nil {
		out.fail(err)
		return
	}
	out.send(event{Images: summaries(list)})
}

func (s *Store) serveExport(w http.ResponseWriter, r *http.Request) {
	refs := r.URL.Query()["ref"]
	for _, ref := range refs {
		if _, err := s.Get(r.Context(), ref); err != nil {
			answer(w, nil, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := s.Export(r.Context(), w, refs...); err != nil {
		panic(http.ErrAbortHandler) // the archive is cut off: so must be the connection
	}
}

// answer writes a value as JSON, or an error with the status it deserves.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case err == nil && v == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	case err == nil:
		_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
		return
	case errors.Is(err, fs.ErrNotExist):
		w.WriteHeader(http.StatusNotFound)
	case errors.Is(err, ErrBadName):
		w.WriteHeader(http.StatusBadRequest)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(event{Error: err.Error(), Hint: hint.Of(err)})
}

// eventWriter streams a transfer as lines of JSON.
type eventWriter struct {
	enc   *json.Encoder
	flush func() error
}

func newEventWriter(w http.ResponseWriter) *eventWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &eventWriter{enc: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
}

// send ignores errors: a client that is gone cancels the request's context.
func (e *eventWriter) send(ev event) {
	_ = e.enc.Encode(ev)
	_ = e.flush()
}

func (e *eventWriter) progress(p Progress) { e.send(event{Progress: &p}) }
func (e *eventWriter) fail(err error)      { e.send(event{Error: err.Error(), Hint: hint.Of(err)}) }
