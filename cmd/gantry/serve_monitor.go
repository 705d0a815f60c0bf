package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/services/monitor"
)

// monitorOptions are the flags about metrics.
type monitorOptions struct {
	retention, interval time.Duration
	size                string
	off                 bool
	external            string // where people find the console
	externalURL         *url.URL
}

func (o *monitorOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.DurationVar(&o.retention, "metrics-retention", monitor.DefaultRetention, "how long metrics are kept")
	f.StringVar(&o.size, "metrics-size", "1Gi", "how much disk metrics take at most")
	f.DurationVar(&o.interval, "metrics-interval", monitor.DefaultInterval, "time between two scrapes of a target that does not say it itself")
	f.BoolVar(&o.off, "no-metrics", false, "collect and keep no metrics, and raise no alerts")
	f.StringVar(&o.external, "external-url", "", "where people find the console; links in notifications begin with it (default https:// and the API's address)")
}

// bytes is the size that was asked for.
func (o *monitorOptions) bytes() (int64, error) { return parseSize("metrics-size", o.size) }

func parseSize(flag, text string) (int64, error) {
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Value() < 1<<20 {
		return 0, fmt.Errorf("--%s %q is not a size such as 1Gi, of 1Mi at least", flag, text)
	}
	return q.Value(), nil
}

func (o *monitorOptions) check() error {
	switch {
	case o.retention < time.Hour:
		return fmt.Errorf("--metrics-retention %s is too short: 1h is the least", o.retention)
	case o.interval < time.Second:
		return fmt.Errorf("--metrics-interval %s is too short: 1s is the least", o.interval)
	}
	if o.external != "" {
		u, err := url.Parse(strings.TrimSuffix(o.external, "/"))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--external-url %q is not an address such as https://gantry.example.com", o.external)
		}
		o.externalURL = u
	}
	_, err := o.bytes()
	return err
}

// gatewayInterval is how often the gateway is asked, whose traffic changes fastest.
const gatewayInterval = 5 * time.Second

// startMonitor collects metrics in the background: nothing waits for it. Reading the samples of the
// last hours may take a moment, in which questions are answered with a request for patience.
func startMonitor(_ context.Context, in *server) error {
	if in.monitor.off {
		return nil
	}
	size, err := in.monitor.bytes()
	if err != nil {
		return err
	}
	cfg := monitor.Config{
		Client: in.api.ClientConfig(monitor.User), Dir: filepath.Join(in.dataDir, "monitor"),
		Retention: in.monitor.retention, MaxBytes: size, Interval: in.monitor.interval, HostMetrics: node.HostMetricsPath,
		Sources: []monitor.Source{{
			Job: "gateway", Instance: "gateway", Handler: overSocket(gatewayAdminSocket(in.dataDir)), Interval: min(gatewayInterval, in.monitor.interval),
		}, {
			Job: "logs", Instance: "logs", Handler: http.HandlerFunc(in.serveLogMetrics),
		}, {
			Job: "alertmanager", Instance: "alertmanager", Handler: in.alerts.Metrics(),
		}, {
			Job: "anomalies", Instance: "anomalies", Handler: in.anomaly.Metrics(),
		}},
		Rules: in.alerts, Version: version, Log: in.upstreamLogger(),
	}
	var running atomic.Pointer[monitor.Service]
	err = in.api.Mount(monitor.Prefix, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := running.Load(); m != nil {
			m.ServeHTTP(w, r)
			return
		}
		http.Error(w, "the monitor is starting", http.StatusServiceUnavailable)
	}))
	if err != nil {
		return err
	}
	in.keepRunning("the monitor", func(ctx context.Context) error { return in.runMonitor(ctx, cfg, &running) })
	return nil
}

// keepRunning runs a part in the background, without which the platform works, and starts it again when it fails.
func (in *server) keepRunning(name string, run func(context.Context) error) {
	in.background(name, func(ctx context.Context) error {
		for {
			err := run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			slog.Error(name+" has ended and is started again", "in", restPause, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(restPause):
			}
		}
	})
}

// restPause is how long a part that has failed rests.
const restPause = 30 * time.Second

func (in *server) runMonitor(ctx context.Context, cfg monitor.Config, running *atomic.Pointer[monitor.Service]) error {
	if err := monitor.EnsureRoles(ctx, in.installer()); err != nil {
		return err
	}
	if err := monitor.EnsureKinds(ctx, in.installer()); err != nil {
		return err
	}
	m, err := monitor.New(cfg)
	if err != nil {
		return err
	}
	running.Store(m)
	return m.Run(ctx)
}

// overSocket passes requests on to what listens at a unix socket.
func overSocket(path string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "unix" },
		Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // the scrape that fails tells it
	}
}
