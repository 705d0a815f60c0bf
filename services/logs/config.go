package logs

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// Defaults of Config.
const (
	DefaultRetention = 7 * 24 * time.Hour
	DefaultMaxBytes  = 1 << 30
)

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:logs. Required.
	Client *rest.Config
	// Dir holds the archive. Required.
	Dir string
	// PodLogs is the directory with the log files of this machine's pods, in the layout of a kubelet's
	// /var/log/pods. "" is none: logs are then followed through the API.
	PodLogs string
	// Retention is how long lines are kept, MaxBytes how much disk they take at most, compressed.
	// 0 means the default.
	Retention time.Duration
	MaxBytes  int64
	// User tells who has sent a request. Required.
	User func(*http.Request) (user.Info, bool)
	Log  *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	switch {
	case c.Client == nil:
		return errors.New("start logs: Config.Client is required")
	case c.Dir == "":
		return errors.New("start logs: Config.Dir is required")
	case c.User == nil:
		return errors.New("start logs: Config.User is required")
	case c.Retention < 0 || c.MaxBytes < 0:
		return errors.New("start logs: retention and size must not be negative")
	}
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.MaxBytes = cmp.Or(c.MaxBytes, DefaultMaxBytes)
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}
