package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestCollectionDuringAPushStormLosesNothing pushes, deletes, collects and pulls at the
// same time. Repositories share layers, so that what one deletes another still needs.
// Whatever was acknowledged and not deleted must be whole, at once and at the end, and
// at the end nothing else may take space. GANTRY_STORM says how long (make storm).
func TestCollectionDuringAPushStormLosesNothing(t *testing.T) {
	length := 2 * time.Second
	if text := os.Getenv("GANTRY_STORM"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		must(t, err)
	}
	data := t.TempDir()
	reg := serve(t, Config{DataDir: data})
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var pushes, deletions, refused, collections atomic.Int64
	var removed Collected
	var all sync.WaitGroup
	final := make([]v1.Image, 8)
	for worker := range final {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				final[worker] = storm(t, reg, worker, n, &pushes, &refused, &deletions)
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			// With so little grace a blob may go between its upload and its manifest.
			// Then the manifest must be refused, and the client pushes again.
			got, err := reg.Collect(t.Context(), CollectOptions{UntaggedFor: 5 * time.Millisecond})
			if err != nil {
				t.Errorf("collect: %v", err)
				return
			}
			collections.Add(1)
			removed.Manifests += got.Manifests
			removed.Blobs += got.Blobs
		}
	})
	all.Wait()
	needed := map[v1.Hash]bool{}
	for worker, img := range final {
		if img == nil {
			continue
		}
		verify(t, reg.ref(t, fmt.Sprintf("storm/w%d:tip", worker)), img)
		note(t, img, needed)
	}
	collect(t, reg, CollectOptions{})
	for worker, img := range final {
		if img != nil {
			verify(t, reg.ref(t, fmt.Sprintf("storm/w%d:tip", worker)), img)
		}
	}
	if got := files(t, data); got != len(needed) {
		t.Errorf("%d blobs are left, %d are needed", got, len(needed))
	}
	t.Logf("%d pushes (%d refused and repeated), %d deletions, %d collections removed %d manifests and %d blobs",
		pushes.Load(), refused.Load(), deletions.Load(), collections.Load(), removed.Manifests, removed.Blobs)
	if pushes.Load() == 0 || collections.Load() == 0 || removed.Blobs == 0 {
		t.Error("the storm did not blow")
	}
}

// storm moves a worker's tag to a new image, checks it, and sometimes deletes by digest.
func storm(t *testing.T, reg served, worker, n int, pushes, refused, deletions *atomic.Int64) v1.Image {
	ref := reg.ref(t, fmt.Sprintf("storm/w%d:tip", worker))
	img := stormImage(t, worker, n)
	for {
		err := remote.Write(ref, img)
		if err == nil {
			break
		}
		if !blobUnknown(err) {
			t.Errorf("push: %v", err)
			return nil
		}
		refused.Add(1)
	}
	pushes.Add(1)
	verify(t, ref, img)
	if n%7 != 3 {
		return img
	}
	d, err := img.Digest()
	must(t, err)
	if err := remote.Delete(ref.Context().Digest(d.String())); err != nil {
		t.Errorf("delete: %v", err)
	}
	deletions.Add(1)
	return nil
}

// stormImage has a layer of its own and two of a few that all workers use.
func stormImage(t *testing.T, worker, n int) v1.Image {
	layers := []string{
		fmt.Sprintf("own %d %d", worker, n),
		fmt.Sprintf("shared %d", rand.IntN(5)), fmt.Sprintf("shared %d", 5+rand.IntN(5)),
	}
	img := v1.Image(empty.Image)
	for _, text := range layers {
		var err error
		img, err = mutate.AppendLayers(img, static.NewLayer(bytes.Repeat([]byte(text), 500), types.OCILayer))
		must(t, err)
	}
	return img
}

func blobUnknown(err error) bool {
	var te *transport.Error
	if !errors.As(err, &te) {
		return false
	}
	for _, d := range te.Errors {
		// An upload that a collection met before its first byte is looked for by the
		// client again, as is a blob.
		if d.Code == "MANIFEST_BLOB_UNKNOWN" || d.Code == "BLOB_UNKNOWN" {
			return true
		}
	}
	return te.StatusCode == http.StatusNotFound
}

// verify pulls an image and checks each byte against its digest.
func verify(t *testing.T, ref name.Reference, want v1.Image) {
	t.Helper()
	got, err := remote.Image(ref)
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	wantDigest, err := want.Digest()
	must(t, err)
	if d, err := got.Digest(); err != nil || d != wantDigest {
		t.Errorf("%s is %v, want %v: %v", ref, d, wantDigest, err)
	}
	if _, err := got.RawConfigFile(); err != nil {
		t.Errorf("%s: configuration: %v", ref, err)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	for _, l := range layers {
		rc, err := l.Compressed() // checks the digest while it is read
		if err == nil {
			_, err = io.Copy(io.Discard, rc)
			err = errors.Join(err, rc.Close())
		}
		if err != nil {
			t.Errorf("%s: a layer: %v", ref, err)
		}
	}
}

// note adds the digests of all that an image consists of.
func note(t *testing.T, img v1.Image, needed map[v1.Hash]bool) {
	t.Helper()
	d, err := img.Digest()
	must(t, err)
	needed[d] = true
	m, err := img.Manifest()
	must(t, err)
	needed[m.Config.Digest] = true
	for _, l := range m.Layers {
		needed[l.Digest] = true
	}
}
