package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"go.yaml.in/yaml/v3"
)

// SecretName is the Secret in platform.SystemNamespace that says where samples are sent on to, under ConfigKey:
// a configuration of Prometheus of which remote_write and global.external_labels are honoured.
const (
	SecretName = "prometheus"
	ConfigKey  = "prometheus.yaml"
)

const (
	// flushDeadline is how long the end of the service waits for receivers.
	flushDeadline = 2 * time.Second
	// maxShards is how many requests are on their way to one receiver at once, when it is not said.
	maxShards = 4
)

// onward stores samples, and sends them on to other databases with Prometheus's own package, which reads them
// from the log of samples. A receiver that does not answer costs neither samples of the database nor much memory: sending
// goes on in the log where it stopped, for as long as the log reaches back (two to three hours).
// Nothing of it runs while nothing is to be sent.
type onward struct {
	db        *tsdb.DB
	dir       string // of db
	log       *slog.Logger
	metrics   prometheus.Registerer
	described *scrape.Manager // whose targets say what metrics mean
	sending   atomic.Pointer[sending]
}

type sending struct {
	remote *remote.Storage
	both   storage.Storage
	cfg    *promconfig.Config
}

// Get implements remote.ReadyScrapeManager.
func (o *onward) Get() (*scrape.Manager, error) { return o.described, nil }

// AppenderV2 implements storage.AppendableV2.
func (o *onward) AppenderV2(ctx context.Context) storage.AppenderV2 {
	if s := o.sending.Load(); s != nil {
		return s.both.AppenderV2(ctx)
	}
	return o.db.AppenderV2(ctx)
}

// Notify implements wlog.WriteNotified: the log has grown.
func (o *onward) Notify() {
	if s := o.sending.Load(); s != nil {
		s.remote.Notify()
	}
}

// apply makes samples be sent as cfg says; nil is nowhere. It must not be called concurrently.
func (o *onward) apply(cfg *promconfig.Config) error {
	s := o.sending.Load()
	if s == nil {
		if cfg == nil {
			return nil
		}
		r := remote.NewStorage(o.log, o.metrics, o.db.StartTime, o.dir, flushDeadline, o, false)
		s = &sending{remote: r, both: storage.NewFanout(o.log, o.db, r)}
		o.sending.Store(s)
	}
	if cfg == nil {
		cfg = &promconfig.Config{}
	}
	if err := s.remote.ApplyConfig(cfg); err != nil {
		return fmt.Errorf("send samples on: %w", err)
	}
	o.sending.Store(&sending{s.remote, s.both, cfg})
	return nil
}

// close sends what is left, for at most flushDeadline.
func (o *onward) close() error {
	if s := o.sending.Swap(nil); s != nil {
		return s.remote.Close()
	}
	return nil
}

// loadRemote reads a configuration and refuses what is not honoured.
func loadRemote(text []byte) (*promconfig.Config, error) {
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	for key, value := range tree {
		switch key {
		case "remote_write":
		case "global":
			global, _ := value.(map[string]any)
			for name := range global {
				if name != "external_labels" {
					return nil, fmt.Errorf("global.%s is not honoured here: only external_labels and remote_write are", name)
				}
			}
		default:
			return nil, fmt.Errorf("%s is not honoured here: only global.external_labels and remote_write are", key)
		}
	}
	if field := fileIn(tree); field != "" {
		return nil, fmt.Errorf("%s names a file of the machine: write the value itself, this is a Secret", field)
	}
	cfg, err := promconfig.Load(string(text), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if len(cfg.RemoteWriteConfigs) == 0 {
		return nil, errors.New("remote_write is missing: it says where samples are sent to")
	}
	for i, w := range cfg.RemoteWriteConfigs {
		if w.QueueConfig.MaxShards == promconfig.DefaultQueueConfig.MaxShards {
			w.QueueConfig.MaxShards = max(maxShards, w.QueueConfig.MinShards)
		}
		if slices.ContainsFunc(cfg.RemoteWriteConfigs[:i], func(other *promconfig.RemoteWriteConfig) bool { return reflect.DeepEqual(w, other) }) {
			return nil, fmt.Errorf("remote_write names %s twice in the same way: leave one out, or give each a name", w.URL.Redacted())
		}
		// A client is made for trying, which reads the certificates.
		if _, err := config.NewClientFromConfig(w.HTTPClientConfig, "trial"); err != nil {
			return nil, fmt.Errorf("remote_write to %s: %w", w.URL.Redacted(), err)
		}
	}
	return cfg, nil
}

// fileIn finds a field that names a file, or "".
func fileIn(v any) string {
	switch v := v.(type) {
	case []any:
		i := slices.IndexFunc(v, func(v any) bool { return fileIn(v) != "" })
		if i >= 0 {
			return fileIn(v[i])
		}
	case map[string]any:
		for key, value := range v {
			if strings.HasSuffix(key, "_file") {
				return key
			}
			if field := fileIn(value); field != "" {
				return field
			}
		}
	}
	return ""
}
