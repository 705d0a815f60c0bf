package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/services/logs"
)

// logsOptions are the flags about logs.
type logsOptions struct {
	retention time.Duration
	size      string
	off       bool
}

func (o *logsOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.DurationVar(&o.retention, "logs-retention", logs.DefaultRetention, "how long the logs of containers are kept, also of those that are gone")
	f.StringVar(&o.size, "logs-size", "1Gi", "how much disk kept logs take at most, compressed")
	f.BoolVar(&o.off, "no-logs", false, "keep no logs of containers that are gone, and none to search")
}

func (o *logsOptions) check() error {
	if o.retention < time.Minute {
		return fmt.Errorf("--logs-retention %s is too short: 1m is the least", o.retention)
	}
	_, err := parseSize("logs-size", o.size)
	return err
}

// logsRunning is the log service as the other components find it.
type logsRunning struct {
	service atomic.Pointer[logs.Service]
	tried   chan struct{} // closed when it has been tried to open the archive; nil without logs
}

// startLogs keeps the logs of containers in the background. It is there before the node, which may have to
// remove logs as soon as it starts; those wait a moment for the archive.
func startLogs(_ context.Context, in *server) error {
	if in.logs.off {
		return nil
	}
	size, err := parseSize("logs-size", in.logs.size)
	if err != nil {
		return err
	}
	cfg := logs.Config{
		Client: in.api.ClientConfig(logs.User), Dir: filepath.Join(in.dataDir, "logs"), PodLogs: node.PodLogs(in.dataDir),
		Retention: in.logs.retention, MaxBytes: size, User: sender, Log: in.upstreamLogger(),
	}
	in.logsRunning.tried = make(chan struct{})
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := in.logsRunning.service.Load(); s != nil {
			s.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the logs are being opened; ask again in a moment", http.StatusServiceUnavailable)
	})
	if err := errors.Join(in.api.MountStreaming(logs.Prefix, answer), in.api.Mount(logs.TimelinePrefix, answer)); err != nil {
		return err
	}
	first := true
	in.keepRunning("the log service", func(ctx context.Context) error { return in.runLogs(ctx, cfg, &first) })
	return nil
}

func (in *server) runLogs(ctx context.Context, cfg logs.Config, first *bool) error {
	s, err := logs.New(cfg)
	in.logsRunning.service.Store(s)
	if *first {
		*first = false
		close(in.logsRunning.tried)
	}
	if err != nil {
		return err
	}
	defer in.logsRunning.service.Store(nil)
	if err := logs.EnsureRoles(ctx, in.installer()); err != nil {
		return err
	}
	return s.Run(ctx)
}

// drainLogs has what is below a path archived, before the node removes it.
func (in *server) drainLogs(path string) {
	if in.logsRunning.tried == nil {
		return
	}
	select {
	case <-in.logsRunning.tried:
	case <-in.ctx.Done():
	}
	if s := in.logsRunning.service.Load(); s != nil {
		s.Drain(path)
	}
}

// serveLogMetrics answers the monitor's scrape.
func (in *server) serveLogMetrics(w http.ResponseWriter, r *http.Request) {
	if s := in.logsRunning.service.Load(); s != nil {
		s.Metrics().ServeHTTP(w, r)
	}
}

// sender is who has sent a request that came through the API server.
func sender(r *http.Request) (user.Info, bool) { return request.UserFrom(r.Context()) }
