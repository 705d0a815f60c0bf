package main

import (
	"context"
	"path/filepath"

	"github.com/gantryhq/gantry/services/anomaly"
)

// startAnomaly learns in the background what is usual. It needs metrics; without logs it knows of no causes.
func startAnomaly(_ context.Context, in *server) (err error) {
	if in.monitor.off {
		return nil
	}
	in.anomaly, err = anomaly.New(anomaly.Config{
		Client: in.api.ClientConfig(anomaly.User), Dir: filepath.Join(in.dataDir, "anomaly"), Log: in.upstreamLogger(),
	})
	if err != nil {
		return err
	}
	if err := in.api.Mount(anomaly.Prefix, in.anomaly); err != nil {
		return err
	}
	in.keepRunning("anomaly detection", func(ctx context.Context) error {
		if err := anomaly.EnsureRoles(ctx, in.installer()); err != nil {
			return err
		}
		return in.anomaly.Run(ctx)
	})
	return nil
}
