package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/app"
)

// Config is what the service is started with.
type Config struct {
	// Client reaches the API as User. Required.
	Client *rest.Config
	// As reaches the API as a service account. Required.
	As func(namespace, serviceAccount string) *rest.Config
	// Dir keeps clones and logs. Required.
	Dir string
	// Builder makes images. Required.
	Builder Builder
	// Load reads the application at a path inside a checkout, and nothing outside of
	// it. The names of its Images' folders begin at the checkout. Required.
	Load func(ctx context.Context, checkout, path, namespace string) (*app.Application, error)
	// Webhooks opens the listener for webhooks when the first Pipeline has one, or is
	// nil. The address must be one that the gateway reaches.
	Webhooks func() (net.Listener, error)
	// Parallel is how many Builds run at a time; 0 means 2.
	Parallel int
	// LocalRepositories allows repositories at loopback and link-local addresses, where
	// this machine's own programs and a cloud's metadata are.
	LocalRepositories bool
	Log               *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	if c.Client == nil || c.As == nil || c.Dir == "" || c.Builder == nil || c.Load == nil {
		return errors.New("start pipelines: Config is incomplete")
	}
	c.Parallel = cmp.Or(c.Parallel, 2)
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}

// Builder makes one image of a Build.
type Builder interface {
	// Build builds and pushes an image with the Build's number as tag, signs it and
	// attaches what is known of it. An error that has a method Transient that returns
	// true is worth another try.
	Build(ctx context.Context, r ImageRequest) (v1alpha1.BuiltImage, error)
	// Scanned waits until a built image has been scanned, and says in it what was found.
	Scanned(ctx context.Context, image *v1alpha1.BuiltImage) error
}

// ImageRequest says what to build, of what.
type ImageRequest struct {
	app.BuildRequest
	Tag        string
	NoNetwork  bool
	Pipeline   string // namespace/name
	Repository string // URL of the Git repository; the image's is BuildRequest.Repository
	Commit     string
	Log        io.Writer // what the build says, in lines
}

const (
	// User is whom the service is.
	User = "system:gantry:pipeline"
	// Namespace and Name are those of the Service that the API server finds logs by,
	// and the gateway webhooks.
	Namespace = "gantry-system"
	Name      = "pipelines"
	// LogGroup and LogVersion are the API with the logs of Builds.
	LogGroup, LogVersion = "delivery.gantry.dev", "v1alpha1"
)

// BuildName is the name of a Pipeline's Build with a number.
func BuildName(pipeline string, number int64) string { return fmt.Sprintf("%s-%d", pipeline, number) }

// LogPath is where the API has the log of a Build.
func LogPath(namespace, build string) string {
	return fmt.Sprintf("/apis/%s/%s/namespaces/%s/buildlogs/%s", LogGroup, LogVersion, namespace, build)
}
