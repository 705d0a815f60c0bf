package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/internal/atomicfile"
	"github.com/gantryhq/gantry/internal/logfile"
	"github.com/gantryhq/gantry/services/gateway/audit"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

// saveQuotas is how often quotas are written down, if they have changed: what was
// counted since then is forgotten by a restart.
const saveQuotas = 2 * time.Second

// state is what outlives the process.
type state struct {
	dir   string // or ""
	audit *audit.Log
	close func()
}

// auditRotation keeps the audit log for longer than others.
var auditRotation = logfile.Options{MaxSize: 100 << 20, MaxAge: 24 * time.Hour, Keep: 90}

func openState(dir string) (*state, error) {
	name := "-"
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the gateway's directory: %w", err)
		}
		name = filepath.Join(dir, "audit.log")
	}
	file, err := openLog(name, auditRotation)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	s := &state{dir: dir, audit: audit.New(file)}
	s.close = func() {
		s.audit.Flush()
		file.Close()
	}
	return s, nil
}

func (s *state) quotas() string { return filepath.Join(s.dir, "quotas.json") }

// load gives what a process before has counted to guards.
func (s *state) load(guards *guard.Keeper) error {
	if s.dir == "" {
		return nil
	}
	text, err := os.ReadFile(s.quotas())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read quotas: %w", err)
	}
	return guards.Load(text)
}

// keep writes quotas down until ctx ends: from then on a successor may do so.
func (s *state) keep(ctx context.Context, guards *guard.Keeper, log *slog.Logger) {
	if s.dir == "" {
		return
	}
	tick := time.NewTicker(saveQuotas)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text, changed, err := guards.Save()
		if err == nil && changed {
			err = atomicfile.Write(s.quotas(), text, 0o600)
		}
		if err != nil && !said {
			log.Warn("write quotas", "error", err)
		}
		said = err != nil
	}
}

// register offers what is counted here as metrics.
func (s *state) register(registry *prometheus.Registry, guards *guard.Keeper) {
	registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gantry_gateway_audit_dropped_total",
			Help: "Lines of the audit log that could not be written.",
		}, func() float64 { return float64(s.audit.Dropped()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gantry_gateway_limit_evictions_total",
			Help: "Keys of rate limits and quotas that were forgotten before their time, because there were too many.",
		}, func() float64 { return float64(guards.Evictions()) }),
	)
}
