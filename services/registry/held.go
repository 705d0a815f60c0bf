package registry

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// held measures what the registry holds. Measuring reads every name, so it is done beside the question when the
// last one was too long ago, and the answer is the last one.
type held struct {
	r *Registry

	measuring sync.Mutex
	mu        sync.Mutex // guards following
	at        time.Time
	last      *holding
}

type holding struct {
	blobs, repositories int
	bytes               int64
	namespaces          map[string]int64
}

const (
	measureEvery       = time.Minute
	measureBucketEvery = time.Hour // every name costs money there
)

var (
	storageBytes   = prometheus.NewDesc("gantry_registry_storage_bytes", "Bytes of all blobs, each once.", nil, nil)
	storageBlobs   = prometheus.NewDesc("gantry_registry_storage_blobs", "Blobs, each once, manifests among them.", nil, nil)
	repositories   = prometheus.NewDesc("gantry_registry_repositories", "Repositories with something in them.", nil, nil)
	namespaceBytes = prometheus.NewDesc("gantry_registry_namespace_bytes", "Bytes of the blobs of a namespace, each once; quotas count the same.", []string{"namespace"}, nil)
)

// Describe implements prometheus.Collector.
func (h *held) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{storageBytes, storageBlobs, repositories, namespaceBytes} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (h *held) Collect(to chan<- prometheus.Metric) {
	h.mu.Lock()
	last, age := h.last, time.Since(h.at)
	h.mu.Unlock()
	every := measureEvery
	if !h.r.store.OnDisk() {
		every = measureBucketEvery
	}
	if age > every && h.measuring.TryLock() {
		go func() {
			defer h.measuring.Unlock()
			h.measure()
		}()
	}
	if last == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(storageBytes, float64(last.bytes))
	gauge(storageBlobs, float64(last.blobs))
	gauge(repositories, float64(last.repositories))
	for n, bytes := range last.namespaces {
		gauge(namespaceBytes, float64(bytes), n)
	}
}

func (h *held) measure() {
	now := &holding{namespaces: map[string]int64{}}
	var err error
	if now.blobs, now.bytes, err = h.r.store.Size(); err == nil {
		seen := map[string]map[digest.Digest]struct{}{} // by namespace
		err = h.r.store.Repositories(func(name string) error {
			if !h.r.store.HasManifests(name) {
				return nil
			}
			n := Namespace(name)
			now.repositories++
			if seen[n] == nil {
				seen[n] = map[digest.Digest]struct{}{}
			}
			return h.r.store.Usage(name, func(d digest.Digest, bytes int64) {
				if _, counted := seen[n][d]; !counted {
					seen[n][d] = struct{}{}
					now.namespaces[n] += bytes
				}
			})
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = time.Now()
	if err != nil {
		h.r.log.Warn("the registry cannot be measured", "err", err) // the next question tries again
		return
	}
	h.last = now
}
