package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/footprint"
	"github.com/gantryhq/gantry/services/gateway"
)

// newGatewayCommand is the data plane's own process. `gantry serve` starts it;
// on a cluster it is the command of a pod.
func newGatewayCommand(g *globals) *cobra.Command {
	var cfg gateway.Config
	var addresses, trusted, proxyProtocol []string
	var addressPool string
	var whenRecorded bool
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Run only the gateway: routes HTTP traffic by Gateway API and Ingress objects",
		Long: "Serves Gateway API and Ingress objects of the API that --kubeconfig names, and goes on\n" +
			"serving what it knows while that API is away. `gantry serve` starts it by itself.\n" +
			"On SIGTERM it takes no new connections and lets requests in flight finish. Where another\n" +
			"gateway has taken over, clients may use their connections once more; SIGINT shortens that.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if whenRecorded {
				if err := awaitRecord(); err != nil {
					return err
				}
			}
			if cfg.Addresses, err = parseEach("address", addresses, netip.ParseAddr); err != nil {
				return usageError{err}
			}
			if cfg.TrustedProxies, err = parseEach("trusted-proxy", trusted, netip.ParsePrefix); err != nil {
				return usageError{err}
			}
			if cfg.ProxyProtocol, err = parseEach("proxy-protocol-from", proxyProtocol, netip.ParsePrefix); err != nil {
				return usageError{err}
			}
			if err := parsePrefix("address-pool", addressPool, &cfg.AddressPool); err != nil {
				return usageError{err}
			}
			if cfg.Client, err = g.config(); err != nil {
				return err
			}
			if err := keepCapabilities(unix.CAP_NET_BIND_SERVICE); err != nil {
				return fmt.Errorf("give up privileges: %w", err)
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			hurry, stopHurry := signal.NotifyContext(c.Context(), syscall.SIGINT)
			defer stopHurry()
			cfg.Hurry = hurry.Done()
			footprint.Limit(footprint.Steady)
			go trimMemory(ctx)
			return gateway.Run(ctx, cfg)
		},
	}
	flags := c.Flags()
	flags.StringVar(&cfg.Listen, "listen", ":80", "address to bind for listeners with port 80")
	flags.StringVar(&cfg.TLSListen, "tls-listen", ":443", "address to bind for listeners with port 443")
	flags.StringVar(&cfg.Admin, "admin", "", "unix socket or host:port for /metrics, /healthz, /readyz, /routes and /demand")
	flags.StringVar(&cfg.AccessLog, "access-log", "", "file for one JSON line per request, - for standard output")
	flags.Int64Var(&cfg.AccessLogRotation.MaxSize, "access-log-max-size", 100<<20, "bytes after which the access log is rotated")
	flags.DurationVar(&cfg.AccessLogRotation.MaxAge, "access-log-max-age", 24*time.Hour, "time after which the access log is rotated")
	flags.IntVar(&cfg.AccessLogRotation.Keep, "access-log-keep", 7, "how many rotated files of the access log are kept")
	flags.StringVar(&cfg.State, "state", "", "directory for what outlives the process: quotas and the audit log (default none; the audit log goes to standard output)")
	flags.StringSliceVar(&addresses, "address", nil, "address to show in statuses (default the machine's own)")
	flags.StringSliceVar(&trusted, "trusted-proxy", nil, "network of proxies whose X-Forwarded-* headers are believed")
	flags.StringVar(&addressPool, "address-pool", "", "network of this machine's addresses, of which each further Gateway gets one of its own")
	flags.StringSliceVar(&proxyProtocol, "proxy-protocol-from", nil, "network of load balancers whose connections begin with the PROXY protocol")
	flags.BoolVar(&cfg.TakeOver, "take-over", false, "bind ports that an older gateway still holds, before that one ends")
	flags.BoolVar(&whenRecorded, "when-recorded", false, "begin when told so on descriptor 3, as gantry serve does")
	_ = flags.MarkHidden("when-recorded")
	flags.DurationVar(&cfg.DrainTimeout, "drain-timeout", 30*time.Second, "how long requests in flight may take at the end")
	return c
}

// parseEach parses all values of a repeated flag.
func parseEach[T any](flag string, values []string, parse func(string) (T, error)) ([]T, error) {
	parsed := make([]T, 0, len(values))
	for _, v := range values {
		p, err := parse(v)
		if err != nil {
			return nil, fmt.Errorf("--%s %q: %w", flag, v, err)
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// trimMemory gives back what starting needed, once the process has settled.
func trimMemory(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(2 * time.Second):
	}
	if err := footprint.KeepSmall(ctx, footprint.Steady); err != nil {
		slog.Warn("cannot give back memory", "err", err)
	}
}
