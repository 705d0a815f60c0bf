package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says where the registry keeps its files and who may use it.
type Config struct {
	DataDir string // files are kept under DataDir/registry

	// Storage is where content is: "" for files under DataDir/registry, or a bucket as
	// [storage.NewBucket] reads it. Then only uploads in progress are under DataDir.
	Storage string

	// Login tells who sends a request; nil lets everybody do everything, which is
	// right only on a loopback address.
	Login Login

	// Policies says what holds for repositories whoever asks; nil is nothing.
	Policies Policies

	// MinFreeBytes is the free disk space below which uploads are refused, so
	// that the rest of the machine keeps working. 0 means 64 MiB.
	MinFreeBytes int64

	// Pushed is called for each tag that a manifest was pushed under, once for a
	// manifest without a tag, when the manifest is on disk and before the client hears
	// of it; likewise for one that came from an upstream. It is called by many goroutines
	// and must not block. nil means nobody.
	Pushed func(Event)

	// Register is told of the registry's metrics; nil means nobody.
	Register func(...prometheus.Collector)

	Log *slog.Logger // nil means slog.Default()
}

// Policies tells the policy of a repository.
type Policies interface {
	// Of returns it, or why it cannot be told now; then nothing is changed.
	Of(repository string) (Policy, error)
}

// Policy is what holds for a repository. The zero value is nothing.
type Policy struct {
	// Immutable is whether a tag, once pushed, is neither moved nor deleted by clients.
	Immutable func(tag string) bool
	// Quota is how many bytes the content of all repositories of the namespace may have;
	// nil is any number.
	Quota *int64
	// Upstream is the registry whose content this repository keeps, or nil.
	Upstream *Upstream
}

func (p Policy) immutable(tag string) bool { return p.Immutable != nil && p.Immutable(tag) }

// noPolicies is nothing for all.
type noPolicies struct{}

func (noPolicies) Of(string) (Policy, error) { return Policy{}, nil }

// Event is a manifest that was pushed.
type Event struct {
	Repository string
	Tag        string // or ""
	Digest     digest.Digest
	MediaType  string
	Subject    digest.Digest // what the manifest says something about, or ""
}

// Action is what a caller wants to do with a repository: the verb of Kubernetes'
// authorization.
type Action string

// The actions.
const (
	Pull      Action = "get"
	Push      Action = "create"
	Overwrite Action = "update" // move a tag to another manifest
	Delete    Action = "delete"
	List      Action = "list" // see it in the catalog
)

// Login tells who sends a request. Its error is [ErrUnauthenticated] (the client is
// asked to log in), possibly wrapped with the reason.
type Login interface {
	Login(r *http.Request) (Caller, error)
	// Token returns a token that stands for the login of a request, sent as a bearer
	// token, and how long it is good. A request that has no login is refused, whoever
	// sends it.
	Token(r *http.Request) (token string, lifetime time.Duration, err error)
}

// Caller is who sends a request.
type Caller interface {
	// May returns nil, [ErrDenied] wrapped with the reason, or why it cannot be told.
	// An empty repository means all of them.
	May(ctx context.Context, action Action, repository string) error
}

// The refusals of a [Login] and a [Caller].
var (
	ErrUnauthenticated = errors.New("authentication required")
	ErrDenied          = errors.New("access denied")
)

// anybody may do everything.
type anybody struct{}

func (anybody) Login(*http.Request) (Caller, error) { return anybody{}, nil }
func (anybody) Token(*http.Request) (string, time.Duration, error) {
	return "", 0, &refusal{status: http.StatusNotFound, code: "UNSUPPORTED", message: "this registry has no login"}
}
func (anybody) May(context.Context, Action, string) error { return nil }
