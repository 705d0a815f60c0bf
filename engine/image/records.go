package image

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
)

// records are the images of the metadata database, of which those that were asked for are
// remembered: each start of a container asks several times for its image. Everybody in
// this process writes through it, and nobody else can have the database open.
type records struct {
	images.Store

	mu     sync.Mutex // guards following
	known  map[string]images.Image
	writes int // since a record that was read before one may be out of date
}

func newRecords(s images.Store) *records { return &records{Store: s, known: map[string]images.Image{}} }

// Get implements images.Store. The labels of what it returns belong to everybody.
func (r *records) Get(ctx context.Context, name string) (images.Image, error) {
	r.mu.Lock()
	img, ok := r.known[name]
	writes := r.writes
	r.mu.Unlock()
	if ok {
		return img, nil
	}
	img, err := r.Store.Get(ctx, name)
	if err != nil {
		return img, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes == writes {
		r.known[name] = img
	}
	return img, nil
}

// written forgets a record after it was written, or may have been.
func (r *records) written(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, name)
	r.writes++
}

// Create implements images.Store.
func (r *records) Create(ctx context.Context, img images.Image) (images.Image, error) {
	defer r.written(img.Name)
	return r.Store.Create(ctx, img)
}

// Update implements images.Store.
func (r *records) Update(ctx context.Context, img images.Image, fields ...string) (images.Image, error) {
	defer r.written(img.Name)
	return r.Store.Update(ctx, img, fields...)
}

// Delete implements images.Store.
func (r *records) Delete(ctx context.Context, name string, o ...images.DeleteOpt) error {
	defer r.written(name)
	return r.Store.Delete(ctx, name, o...)
}
