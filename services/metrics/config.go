package metrics

import (
	"cmp"
	"fmt"
	"log/slog"

	"k8s.io/client-go/rest"
)

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:metrics. Required.
	Client *rest.Config
	// Gateways is where the demand is told, as in package demand; "" is nowhere, and without the
	// custom metrics API's figures.
	Gateways string
	Log      *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	if c.Client == nil {
		return fmt.Errorf("start metrics: Config.Client is required")
	}
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}
