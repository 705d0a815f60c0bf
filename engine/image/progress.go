package image

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Progress is how far a pull or push is. Byte counts are of compressed content.
type Progress struct {
	Ref        string `json:"ref"`
	Stage      Stage  `json:"stage"`
	Layers     int    `json:"layers"`     // to transfer
	LayersDone int    `json:"layersDone"` // of Layers
	Bytes      int64  `json:"bytes"`      // transferred
	Total      int64  `json:"total"`      // to transfer, as far as known
	Unpacked   int64  `json:"unpacked"`   // of Total
}

// Stage names what a pull does at the moment.
type Stage string

// The stages, in order. Fetching and unpacking overlap.
const (
	Resolving Stage = "resolving"
	Fetching  Stage = "fetching"
	Unpacking Stage = "unpacking"
	Done      Stage = "done"
)

const progressInterval = 100 * time.Millisecond

// meter counts the bytes of one transfer and reports them now and then.
type meter struct {
	report func(Progress)
	quit   chan struct{}
	idle   chan struct{} // closed when the reporting goroutine ended

	mu       sync.Mutex
	now      Progress                // guarded by mu
	layers   map[digest.Digest]int64 // transferred bytes, guarded by mu
	unpacks  map[digest.Digest]int64 // unpacked bytes, guarded by mu
	finished bool                    // guarded by mu
}

func newMeter(ref string, report func(Progress)) *meter {
	m := &meter{
		report:  report,
		quit:    make(chan struct{}),
		idle:    make(chan struct{}),
		now:     Progress{Ref: ref, Stage: Resolving},
		layers:  map[digest.Digest]int64{},
		unpacks: map[digest.Digest]int64{},
	}
	go m.run()
	return m
}

func (m *meter) run() {
	defer close(m.idle)
	m.report(m.snapshot())
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	last := m.snapshot()
	for {
		select {
		case <-m.quit:
			return
		case <-tick.C:
			if now := m.snapshot(); now != last {
				m.report(now)
				last = now
			}
		}
	}
}

func (m *meter) snapshot() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.now
	for _, n := range m.layers {
		p.Bytes += n
	}
	for _, n := range m.unpacks {
		p.Unpacked += n
	}
	if p.Stage == Fetching && p.Total > 0 && p.Bytes >= p.Total {
		p.Stage = Unpacking
	}
	return p
}

// stop ends reporting; finish says before that all went well.
func (m *meter) stop() {
	close(m.quit)
	<-m.idle
	m.mu.Lock()
	finished := m.finished
	m.mu.Unlock()
	if finished {
		m.report(m.snapshot())
	}
}

func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finished = true
	m.now.Stage = Done
	m.now.LayersDone = m.now.Layers
}

// seen counts what a manifest announces before it is fetched.
func (m *meter) seen() images.HandlerFunc {
	return func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.now.Stage == Resolving {
			m.now.Stage = Fetching
		}
		return nil, nil
	}
}

func (m *meter) start(desc ocispec.Descriptor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.layers[desc.Digest]; ok {
		return
	}
	m.layers[desc.Digest] = 0
	m.now.Layers++
	m.now.Total += desc.Size
}

func (m *meter) add(desc ocispec.Descriptor, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[desc.Digest] += n
	if m.layers[desc.Digest] == desc.Size {
		m.now.LayersDone++
	}
}

// unpacked is called with how much of a layer was read so far.
func (m *meter) unpacked(desc ocispec.Descriptor, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unpacks[desc.Digest] = n
}

// fetcher counts what f transfers.
func (m *meter) fetcher(f remotes.Fetcher) remotes.Fetcher {
	return remotes.FetcherFunc(func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		rc, err := f.Fetch(ctx, desc)
		if err != nil || !images.IsLayerType(desc.MediaType) {
			return rc, err
		}
		m.start(desc)
		counted := countingReader{ReadCloser: rc, add: func(n int64) { m.add(desc, n) }}
		if seeker, ok := rc.(io.Seeker); ok {
			// Resuming a partial download needs to seek.
			return struct {
				io.ReadCloser
				io.Seeker
			}{counted, seeker}, nil
		}
		return counted, nil
	})
}

type countingReader struct {
	io.ReadCloser
	add func(int64)
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		r.add(int64(n))
	}
	return n, err
}
