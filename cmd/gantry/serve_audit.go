package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/logfile"
	"github.com/gantryhq/gantry/internal/rights"
	"github.com/gantryhq/gantry/services/audit"
)

// auditPath is the API server's audit log.
func auditPath(dataDir string) string { return filepath.Join(dataDir, "audit", "audit.log") }

// openAuditLog opens the API server's audit log: at most 1 GiB, and five months when little happens.
func openAuditLog(in *server) (io.Writer, error) {
	path := auditPath(in.dataDir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	f, err := logfile.Open(path, logfile.Options{MaxSize: 50 << 20, MaxAge: 7 * 24 * time.Hour, Keep: 20})
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	in.onStop(f.Close)
	return f, nil
}

// startAudit lets people who may read the audit logs read them.
func startAudit(ctx context.Context, in *server) error {
	kube, err := kubernetes.NewForConfig(in.installer())
	if err != nil {
		return err
	}
	if err := rights.EnsureRole(ctx, kube, audit.ReaderRole()); err != nil {
		return err
	}
	return in.api.Mount(audit.Prefix, audit.New(audit.Config{
		API: auditPath(in.dataDir), Gateway: filepath.Join(in.dataDir, "gateway", "audit.log"),
	}))
}
