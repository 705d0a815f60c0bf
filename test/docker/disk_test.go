package docker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// diskMiB is the size of the small disk, tooMuchMiB what does not fit on it.
const diskMiB, tooMuchMiB = 400, 500

// What does not fit on the disk is refused with the reason and leaves nothing, and what
// runs goes on meanwhile.
func TestFullDisk(t *testing.T) {
	if os.Getenv("GANTRY_FULL_DISK") == "" {
		t.Skip("make crash fills a disk")
	}
	testenv.NeedContainers(t)
	disk := instance.SmallDisk(t, diskMiB)
	in := instance.Start(t, instance.Options{DataDir: disk})
	in.BaseImages(t)
	c, err := client.New(client.WithHost("unix://" + filepath.Join(disk, "docker.sock")))
	check(t, err)
	e := env{c, in, in.Registry + "/base/busybox:latest"}
	pull, err := e.ImagePull(t.Context(), e.image, client.ImagePullOptions{})
	check(t, err)
	check(t, pull.Wait(t.Context()))
	bystander := e.create(t, container.Config{Cmd: []string{"sleep", "100000"}}, nil)
	e.start(t, bystander)
	begun := e.state(t, bystander).StartedAt
	// The build worker is there, with what it keeps.
	build(t, e, "FROM "+e.image+"\nRUN echo fits >/fits\n", "")
	for name, fill := range map[string]func(*testing.T, env){
		"pull": pullTooMuch, "load": loadTooMuch, "import": importTooMuch, "build": buildTooMuch, "run": runTooMuch, "cp": copyTooMuch,
	} {
		t.Run(name, func(t *testing.T) {
			before, images := instance.FreeMiB(t, disk), e.images(t)
			fill(t, e)
			for deadline := time.Now().Add(2 * patience); instance.FreeMiB(t, disk) < before-20; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d MiB were free and %d are", before, instance.FreeMiB(t, disk))
				}
			}
			for id, names := range e.images(t) { // others may have gone, to make room
				if images[id] == nil {
					t.Errorf("image %s, %v, is new", id, names)
				}
			}
			if s := e.state(t, bystander); s.Status != container.StateRunning || s.StartedAt != begun {
				t.Errorf("what ran is %+v", s)
			}
			for deadline := time.Now().Add(patience); ; { // for some seconds the node may still think that its disk is full
				out, said, err := e.cli(t, "run", "--rm", e.image, "echo", "goes on")
				if err == nil && out == "goes on\n" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("afterwards a container says %q: %v: %s", out, err, said)
				}
			}
		})
	}
}

func (e env) state(t *testing.T, id string) *container.State {
	t.Helper()
	got, err := e.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	check(t, err)
	return got.Container.State
}

// images are the ids of all images with their names.
func (e env) images(t *testing.T) map[string][]string {
	t.Helper()
	list, err := e.ImageList(t.Context(), client.ImageListOptions{All: true})
	check(t, err)
	images := map[string][]string{}
	for _, i := range list.Items {
		images[i.ID] = append([]string{}, i.RepoTags...)
	}
	return images
}

func diskFull(t *testing.T, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("got %v, not that the disk is full", err)
	}
}

// tooMuch is a tar archive of one file that does not fit, which cannot be compressed.
func tooMuch() io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		archive := tar.NewWriter(w)
		err := archive.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: tooMuchMiB << 20})
		if err == nil {
			_, err = io.CopyN(archive, rand.Reader, tooMuchMiB<<20)
		}
		if err == nil {
			err = archive.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// bigImage is an image that does not fit.
func bigImage(t *testing.T) gcr.Image {
	img, err := mutate.AppendLayers(empty.Image, stream.NewLayer(tooMuch(), stream.WithCompressionLevel(gzip.NoCompression)))
	check(t, err)
	return img
}

func pullTooMuch(t *testing.T, e env) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(t.TempDir()))))
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/big:1"
	check(t, crane.Push(bigImage(t), name, crane.Insecure))
	pull, err := e.ImagePull(t.Context(), name, client.ImagePullOptions{})
	if err == nil {
		err = pull.Wait(t.Context())
	}
	diskFull(t, err)
}

func loadTooMuch(t *testing.T, e env) {
	file := filepath.Join(t.TempDir(), "big.tar")
	dir := t.TempDir()
	img := bigImage(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(dir))))
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/big:1"
	check(t, crane.Push(img, name, crane.Insecure)) // by which the layer's digest is known
	known, err := crane.Pull(name, crane.Insecure)
	check(t, err)
	check(t, crane.Save(known, "example.test/big:1", file))
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	got, err := e.ImageLoad(t.Context(), f)
	if err == nil {
		_, err = io.Copy(io.Discard, got)
		got.Close()
	}
	diskFull(t, err)
}

func importTooMuch(t *testing.T, e env) {
	got, err := e.ImageImport(t.Context(), client.ImageImportSource{Source: tooMuch(), SourceName: "-"}, "example.test/imported:1", client.ImageImportOptions{})
	if err == nil {
		_, err = io.Copy(io.Discard, got)
		got.Close()
	}
	diskFull(t, err)
}

func buildTooMuch(t *testing.T, e env) {
	build(t, e, "FROM "+e.image+"\nRUN dd if=/dev/urandom of=/big bs=1M count="+strconv.Itoa(tooMuchMiB)+"\n", "the disk is full")
}

// build builds a Dockerfile with the classic protocol.
func build(t *testing.T, e env, dockerfile, wrong string) {
	t.Helper()
	got, err := e.ImageBuild(t.Context(), archive(t, "Dockerfile", dockerfile), client.ImageBuildOptions{Tags: []string{"example.test/built"}})
	check(t, err)
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	check(t, err)
	if failed := bytes.Contains(text, []byte(`"errorDetail"`)); failed != (wrong != "") || !bytes.Contains(text, []byte(wrong)) {
		t.Fatalf("the build says %s", text)
	}
}

// A program that fills the disk hears of it, and what it wrote goes with the container. What
// it says meanwhile finds no place either, which its log tells.
func runTooMuch(t *testing.T, e env) {
	id := e.create(t, container.Config{Cmd: []string{"sh", "-c", "dd if=/dev/zero of=/big bs=1M count=" + strconv.Itoa(tooMuchMiB) + " || { rm /big; exit 9; }"}}, nil)
	if _, said, code := e.output(t, id); code != 9 || !strings.Contains(said, "No space left") && !strings.Contains(said, "log lines were dropped") {
		t.Errorf("it said %q and ended with %d", said, code)
	}
	_, err := e.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{Force: true})
	check(t, err)
}

func copyTooMuch(t *testing.T, e env) {
	id := e.create(t, container.Config{Cmd: []string{"true"}}, nil)
	_, err := e.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/", Content: tooMuch()})
	diskFull(t, err)
	_, err = e.ContainerRemove(context.WithoutCancel(t.Context()), id, client.ContainerRemoveOptions{Force: true})
	check(t, err)
}
