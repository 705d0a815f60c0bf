package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestALayerCannotWriteOutsideItsRoot(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	outside := tempDir(t)
	write(t, outside, "shadow", "root:secret")
	up := strings.Repeat("../", 30) + strings.TrimPrefix(outside, "/")
	for name, l := range map[string]v1.Layer{
		"dot-dot":           layer(t, file(up+"/owned", "x")),
		"absolute":          layer(t, file(outside+"/owned", "x")),
		"through a link":    layer(t, symlink("door", outside), file("door/owned", "x")),
		"through links":     layer(t, symlink("a", "/"), symlink("b", "a"+outside), file("b/owned", "x")),
		"hard link":         layer(t, hardlink("steal", up+"/shadow"), file("steal", "owned")),
		"link over a link":  layer(t, symlink("s", outside+"/shadow"), file("s", "owned")),
		"whiteout outside":  layer(t, file(up+"/.wh.shadow", "")),
		"opaque outside":    layer(t, symlink("door", outside), file("door/.wh..wh..opq", "")),
		"device":            layer(t, entry{tar.Header{Name: "dev/../" + up + "/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}),
		"whiteout of links": layer(t, symlink("door", outside), file("door/.wh.shadow", "")),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, tempDir(t))
			ref := reg.push(t, "hostile:1", image(t, l))
			// Refused or confined: both are right, as long as nothing outside changes.
			if _, err := s.Pull(context.Background(), ref, PullOptions{}); err == nil {
				mountRoot(t, s, "h", ref)
				must(t, s.Unmount(context.Background(), "h"))
			}
			names, err := os.ReadDir(outside)
			must(t, err)
			if len(names) != 1 || read(t, outside, "shadow") != "root:secret" {
				t.Errorf("outside the root there is now %v", names)
			}
		})
	}
}

func TestContentThatDoesNotMatchItsDigestIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	l := layer(t, file("a", "good"))
	ref := reg.push(t, "tampered:1", image(t, l))
	d, err := l.Digest()
	must(t, err)
	size, err := l.Size()
	must(t, err)
	reg.corrupt[d.String()] = bytes.Repeat([]byte{'x'}, int(size))
	s := open(t, tempDir(t))
	ctx := context.Background()
	if _, err := s.Pull(ctx, ref, PullOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a tampered layer: %v", err)
	}
	// The configuration promises another uncompressed digest than the layer has.
	img := image(t, l)
	cf, err := img.ConfigFile()
	must(t, err)
	cf = cf.DeepCopy()
	cf.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	lying, err := mutate.ConfigFile(img, cf)
	must(t, err)
	clear(reg.corrupt)
	if _, err := s.Pull(ctx, reg.push(t, "lying:1", lying), PullOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a lying configuration: %v", err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("recorded %v, %v", list, err)
	}
	must(t, s.collect(s.context(ctx)))
	if n := blobs(t, s); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	pull(t, s, ref) // the registry is honest again
}

func TestALayerThatFillsTheDiskIsRefusedAndLeavesRoom(t *testing.T) {
	testenv.NeedRoot(t)
	data := tempDir(t)
	must(t, unix.Mount("tmpfs", data, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() { _ = unix.Unmount(data, unix.MNT_DETACH) })
	reg := newRegistry(t)
	good := reg.push(t, "good:1", image(t, layer(t, file("a", "1"))))
	bomb := reg.push(t, "bomb:1", image(t, bombLayer(t, 200<<20)))
	s := open(t, data)
	ctx := context.Background()
	pull(t, s, good)
	_, err := s.Pull(ctx, bomb, PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("a bomb: %v", err)
	}
	must(t, s.collect(s.context(ctx)))
	if u, err := s.FSUsage(ctx); err != nil || u.AvailableBytes < 28<<20 {
		t.Errorf("usage afterwards %+v, %v", u, err)
	}
	root := mountRoot(t, s, "g", good)
	if read(t, root, "a") != "1" {
		t.Error("the good image is damaged")
	}
	must(t, s.Unmount(ctx, "g"))
	must(t, s.Close())
}

// bombLayer is a small layer that unpacks to size bytes.
func bombLayer(t *testing.T, size int64) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	must(t, tw.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}))
	_, err := io.CopyN(tw, zeros{}, size)
	must(t, err)
	must(t, tw.Close())
	must(t, zw.Close())
	return gzipped{static.NewLayer(buf.Bytes(), types.OCILayer)}
}

// gzipped is a static layer whose bytes are compressed.
type gzipped struct{ v1.Layer }

func (g gzipped) DiffID() (v1.Hash, error) {
	rc, err := g.Uncompressed()
	if err != nil {
		return v1.Hash{}, err
	}
	zr, err := gzip.NewReader(rc)
	if err != nil {
		return v1.Hash{}, err
	}
	h, _, err := v1.SHA256(zr)
	return h, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAContainerIDCannotNameAnotherDirectory(t *testing.T) {
	s := open(t, tempDir(t))
	for _, id := range []string{"", "..", "../x", "a/b", ".hidden", "A", strings.Repeat("a", 200)} {
		if _, err := s.Mount(context.Background(), id, "x:1", nil); err == nil {
			t.Errorf("mounted %q", id)
		}
		if err := s.Unmount(context.Background(), id); err == nil {
			t.Errorf("unmounted %q", id)
		}
	}
}
