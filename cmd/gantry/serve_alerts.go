package main

import (
	"context"
	"net"
	"net/url"
	"path/filepath"

	"github.com/gantryhq/gantry/services/alerts"
)

// startAlerts handles alerts in the background: nothing waits for it. The monitor, which starts after it, has
// the samples that rules are evaluated over.
func startAlerts(_ context.Context, in *server) (err error) {
	if in.monitor.off {
		return nil
	}
	in.alerts, err = alerts.New(alerts.Config{
		Client: in.api.ClientConfig(alerts.User), Dir: filepath.Join(in.dataDir, "alerts"),
		ExternalURL: in.externalURL(), Interval: in.monitor.interval, Log: in.upstreamLogger(),
	})
	if err != nil {
		return err
	}
	if err := in.api.Mount(alerts.Prefix, in.alerts); err != nil {
		return err
	}
	in.keepRunning("alerting", func(ctx context.Context) error {
		if err := alerts.EnsureRoles(ctx, in.installer()); err != nil {
			return err
		}
		if err := alerts.EnsureKinds(ctx, in.installer()); err != nil {
			return err
		}
		return in.alerts.Run(ctx)
	})
	return nil
}

// externalURL is where people find the console: what --external-url says, else the API's address under this
// machine's name.
func (in *server) externalURL() *url.URL {
	if in.monitor.externalURL != nil {
		return in.monitor.externalURL
	}
	host, port, err := net.SplitHostPort(in.api.Addr().String())
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		host = in.nodeName
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}
}
