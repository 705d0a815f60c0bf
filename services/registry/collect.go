package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// CollectOptions say which manifests without a tag go.
type CollectOptions struct {
	// UntaggedFor spares manifests pushed more recently: a push in progress,
	// or one that is about to be deployed by digest.
	UntaggedFor time.Duration
	// InUse spares what is deployed by digest; nil means nothing is. Repository
	// has no host.
	InUse func(repository string, d digest.Digest) bool
}

// Collected is what a collection removed.
type Collected = storage.Collected

// uploadAge is how long an upload may lie without a request.
const uploadAge = 24 * time.Hour

// Collect deletes manifests that no tag, no index, no needed subject and nobody else
// refers to, the blobs that only they needed, and forgotten uploads. Pushes and pulls
// go on meanwhile.
func (r *Registry) Collect(ctx context.Context, opt CollectOptions) (Collected, error) {
	done, err := r.store.Collect(ctx, storage.CollectOptions{Grace: opt.UntaggedFor, InUse: opt.InUse})
	r.metrics.collected.Add(float64(done.Bytes))
	r.metrics.collectedBlobs.Add(float64(done.Blobs))
	if err == nil {
		err = r.store.ExpireUploads(uploadAge)
	}
	if err != nil {
		return done, fmt.Errorf("collect registry: %w", err)
	}
	r.metrics.collections.Inc()
	r.metrics.lastCollection.SetToCurrentTime()
	return done, nil
}
