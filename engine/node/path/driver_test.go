package path_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node/runtime"

	"net/netip"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// driver holds containers in memory: they start at once and end at the first signal.
type driver struct {
	mu         sync.Mutex
	containers map[string]runtime.State
	events     chan runtime.State
	started    func(podUID string)
}

func newDriver() *driver {
	return &driver{containers: map[string]runtime.State{}, events: make(chan runtime.State, 1000), started: func(string) {}}
}

func (d *driver) Start(_ context.Context, c *runtime.Container) (runtime.State, error) {
	st := runtime.State{ID: c.ID, PodUID: c.PodUID, Labels: c.Labels, PID: os.Getpid(), Running: true, StartedAt: time.Now()}
	d.mu.Lock()
	d.containers[c.ID] = st
	d.mu.Unlock()
	d.started(c.PodUID)
	return st, nil
}

func (d *driver) Signal(_ context.Context, id string, _ int, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	st, ok := d.containers[id]
	if !ok {
		return fs.ErrNotExist
	}
	if st.Running {
		st.Running, st.FinishedAt = false, time.Now()
		d.containers[id] = st
		d.events <- st
	}
	return nil
}

func (d *driver) Remove(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.containers[id]; !ok {
		return fs.ErrNotExist
	}
	delete(d.containers, id)
	return nil
}

func (d *driver) List(context.Context) ([]runtime.State, error)         { return nil, nil }
func (d *driver) Events(context.Context) <-chan runtime.State           { return d.events }
func (d *driver) Attach(context.Context, string, runtime.Streams) error { return nil }
func (d *driver) Expect()                                               {}
func (d *driver) ReopenLog(context.Context, string) error               { return nil }
func (d *driver) Update(context.Context, string, runtime.Resources) error {
	return nil
}
func (d *driver) Exec(context.Context, string, runtime.Exec, runtime.Streams) (int, error) {
	return 0, nil
}
func (d *driver) Pause(context.Context, string) error                  { return nil }
func (d *driver) Resume(context.Context, string) error                 { return nil }
func (d *driver) Stats(context.Context, string) (runtime.Stats, error) { return runtime.Stats{}, nil }

// images is one image whose roots are plain directories.
type images struct{ dir string }

func (i images) image(ref string) *image.Image {
	img := &image.Image{Name: "docker.io/library/" + ref, Digest: digest.FromString(ref).String(), Size: 42}
	img.Config.Config = ocispec.ImageConfig{Cmd: []string{"/app"}}
	return img
}

func (i images) Pull(_ context.Context, ref string, _ image.PullOptions) (*image.Image, error) {
	return i.image(ref), nil
}
func (i images) Get(_ context.Context, ref string) (*image.Image, error) { return i.image(ref), nil }
func (i images) List(context.Context) ([]*image.Image, error)            { return nil, nil }
func (i images) Roots(context.Context) ([]image.Root, error)             { return nil, nil }
func (i images) Mount(_ context.Context, id, _ string, _ []string) (string, error) {
	dir := filepath.Join(i.dir, id)
	return dir, os.MkdirAll(dir, 0o755)
}
func (i images) MountMapped(ctx context.Context, id, ref string, targets []string, _ image.IDMapping) (string, error) {
	return i.Mount(ctx, id, ref, targets)
}
func (i images) MountKept(ctx context.Context, id, name string) (string, error) {
	return "", fs.ErrNotExist
}

func (i images) Written(id string) string { return "/nonexistent/" + id }

func (i images) MountReadOnly(ctx context.Context, id, ref string) (string, error) {
	return i.Mount(ctx, id, ref, nil)
}
func (i images) Unmount(_ context.Context, id string) error {
	return os.RemoveAll(filepath.Join(i.dir, id))
}
func (i images) GC(context.Context, func(digest.Digest) bool, ...image.GCOption) (image.Freed, error) {
	return image.Freed{}, nil
}

// network gives every pod the loopback address, where the benchmark listens, and
// the namespace of this process.
type loopback struct{}

func (loopback) Attach(context.Context, network.Pod) (network.Attachment, error) {
	return network.Attachment{NetNS: "/proc/self/ns/net", IP: netip.MustParseAddr("127.0.0.1")}, nil
}
func (loopback) Detach(context.Context, string) error         { return nil }
func (loopback) Withdrawn(netip.Addr) (<-chan struct{}, bool) { return nil, false }
func (loopback) Clients(netip.Addr) (int, error)              { return 0, nil }
func (loopback) Traffic() ([]network.Traffic, error)          { return nil, nil }
func (loopback) DNS() netip.Addr                              { return netip.MustParseAddr("10.96.0.10") }
