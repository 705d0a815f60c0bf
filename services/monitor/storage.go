package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/compression"
)

// Bounds of one query, and of how many run at once: they keep memory and processors for others.
const (
	maxSamples   = 5_000_000 // in memory at a time, 16 bytes each
	queryTimeout = 30 * time.Second
	maxQueries   = 4
)

// openStorage opens the database. What its predecessor had not yet written to blocks it reads from
// the log of samples, to which each scrape is written when it ends.
func openStorage(cfg *Config, metrics prometheus.Registerer) (*tsdb.DB, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the samples: %w", err)
	}
	o := tsdb.DefaultOptions()
	o.RetentionDuration, o.MaxBytes = cfg.Retention.Milliseconds(), cfg.MaxBytes
	o.MaxBlockDuration = max(o.MinBlockDuration, min(cfg.Retention.Milliseconds()/10, 31*24*time.Hour.Milliseconds()))
	o.WALCompression = compression.Snappy
	o.WALSegmentSize = 16 << 20
	// One machine has thousands of series, and not millions.
	o.StripeSize = 1 << 9
	o.HeadChunksWriteBufferSize = chunks.MinWriteBufferSize
	o.HeadChunksWriteQueueSize = 0
	o.NoLockfile = true // the data directory has one owner already
	db, err := tsdb.Open(cfg.Dir, cfg.Log, metrics, o, nil)
	if err != nil {
		return nil, fmt.Errorf("open the samples in %s: %w", cfg.Dir, err)
	}
	return db, nil
}

// parserOptions switch on nothing that Prometheus calls experimental.
var parserOptions = parser.Options{}

func newEngine(cfg *Config, metrics prometheus.Registerer) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		Logger: cfg.Log, Reg: metrics, MaxSamples: maxSamples, Timeout: queryTimeout, ActiveQueryTracker: make(queue, maxQueries),
		NoStepSubqueryIntervalFn: func(int64) int64 { return cfg.Interval.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, EnablePerStepStats: true,
		Parser: parser.NewParser(parserOptions),
	})
}

// queue lets as many queries run as it has room for; further ones wait. It implements promql.QueryTracker.
type queue chan struct{}

func (q queue) GetMaxConcurrent() int { return cap(q) }

func (q queue) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case q <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, errors.Join(fmt.Errorf("%d other queries run, and none of them ended in time", cap(q)), ctx.Err())
	}
}

func (q queue) Delete(int)   { <-q }
func (q queue) Close() error { return nil }
