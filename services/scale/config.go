package scale

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
)

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:scale. Required.
	Client *rest.Config
	// Gateways is where the demand is told: unix:PATH of one gateway's admin socket, or
	// http://HOST:PORT of the admin addresses behind a host name. Required.
	Gateways string
	// Register takes the service's metrics, or is nil.
	Register func(...prometheus.Collector)
	Log      *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	if c.Client == nil {
		return fmt.Errorf("start scaling: Config.Client is required")
	}
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}

const (
	// pace is how often a policy is decided upon at most, unless requests wait for a first replica.
	pace = 50 * time.Millisecond
	// review is how often it is decided upon at least while there is demand, because windows move
	// on, and idleReview while there is none.
	review     = time.Second
	idleReview = 5 * time.Second
	// resourcePeriod is how often the use of CPU and memory is asked for.
	resourcePeriod = 10 * time.Second
	// statusPause is how often the reason in a status is brought up to date when nothing else changes.
	statusPause = 5 * time.Second
)
