package monitor

import (
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/compression"
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
