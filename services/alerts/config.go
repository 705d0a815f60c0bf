package alerts

import (
	"cmp"
	"errors"
	"log/slog"
	"net/url"
	"time"

	"k8s.io/client-go/rest"
)

// DefaultInterval is the time between two evaluations of a rule that does not say it itself.
const DefaultInterval = 10 * time.Second

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:alerts. Required.
	Client *rest.Config
	// Dir holds silences, what was sent, and what fires. Required.
	Dir string
	// ExternalURL is where people find the console; links in notifications begin with it. Required.
	ExternalURL *url.URL
	// Interval is how often rules are evaluated that do not say it themselves; 0 means the default.
	Interval time.Duration
	Log      *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	switch {
	case c.Client == nil:
		return errors.New("start alerts: Config.Client is required")
	case c.Dir == "":
		return errors.New("start alerts: Config.Dir is required")
	case c.ExternalURL == nil:
		return errors.New("start alerts: Config.ExternalURL is required")
	case c.Interval < 0:
		return errors.New("start alerts: the interval must not be negative")
	}
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}
