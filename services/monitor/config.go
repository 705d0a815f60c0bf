package monitor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"k8s.io/client-go/rest"
)

// Defaults of Config.
const (
	DefaultRetention = 7 * 24 * time.Hour
	DefaultMaxBytes  = 1 << 30
	DefaultInterval  = 10 * time.Second
)

// Source is a part of the platform that is asked for its metrics without a network.
type Source struct {
	Job, Instance string // labels of its samples
	// Handler answers GET /metrics.
	Handler  http.Handler
	Interval time.Duration // between two scrapes; 0 is Config.Interval
}

// Rules are evaluated over the samples.
type Rules interface {
	// Evaluate evaluates them, and stores what they record, until ctx ends.
	Evaluate(ctx context.Context, samples storage.Storage, engine promql.QueryEngine) error
	// Groups are the rules with what they found last; it is safe for concurrent use.
	Groups() []*promrules.Group
}

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:monitor. Required.
	Client *rest.Config
	// Dir holds the samples. Required.
	Dir string
	// Retention is how long samples are kept, MaxBytes how many bytes of them at most.
	// 0 means the default.
	Retention time.Duration
	MaxBytes  int64
	// Interval is how often targets are scraped that do not say it themselves; 0 means the default.
	Interval time.Duration
	// HostMetrics is the path at the nodes' agents where figures of the machine are told under
	// node_exporter's names; "" is nowhere, for clusters with an exporter of their own.
	HostMetrics string
	Sources     []Source
	Rules       Rules        // or nil for none
	Version     string       // of the program
	Log         *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	switch {
	case c.Client == nil:
		return errors.New("start monitor: Config.Client is required")
	case c.Dir == "":
		return errors.New("start monitor: Config.Dir is required")
	case c.Retention < 0 || c.MaxBytes < 0 || c.Interval < 0:
		return errors.New("start monitor: retention and interval must not be negative")
	}
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.MaxBytes = cmp.Or(c.MaxBytes, DefaultMaxBytes)
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}
