package trust

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/platform"
)

// Config is what the service is started with.
type Config struct {
	// Client reaches the API; its user needs the role system:gantry:trust. Required.
	Client *rest.Config
	// Dir is where accepted digests are remembered over a restart; "" remembers them in memory only.
	Dir string
	// CABundle is the PEM of the authority of the webhook's certificate; nil where the API server
	// answers for the Service gantry-system/trust itself.
	CABundle []byte
	// Register takes the service's metrics, or is nil.
	Register func(...prometheus.Collector)
	Log      *slog.Logger // or nil for slog.Default()
}

func (c *Config) complete() error {
	if c.Client == nil {
		return fmt.Errorf("start trust: Config.Client is required")
	}
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}

const (
	// User is whom the service is, where it is a part of `gantry serve`.
	User = "system:gantry:trust"
	// Namespace and Name are those of the Service that the API server finds the webhooks by.
	Namespace = platform.SystemNamespace
	Name      = "trust"
	// registryLogin is a Secret of type kubernetes.io/dockerconfigjson in Namespace, for registries
	// that ask who reads.
	registryLogin = "trust-registry-login"

	// patience is how long a decision may take, and webhookPatience how long the API server waits
	// for it: longer, so that it hears why it took so long.
	patience        = 8 * time.Second
	webhookPatience = 10 * time.Second
	// keyPeriod is how often keys in Secrets are read again, and keyRetry while one is missing.
	keyPeriod = 30 * time.Second
	keyRetry  = 2 * time.Second
	// scanPeriod is how often a scan result is looked for again when a container starts.
	scanPeriod = 10 * time.Minute
	// basePeriod is how often it is looked up again what a base image's tag stands for.
	basePeriod = 5 * time.Minute
	// remembered is how many accepted digests are kept.
	remembered = 8192
)

// systemNamespaces are never covered by a policy.
var systemNamespaces = []string{"kube-system", platform.SystemNamespace}
