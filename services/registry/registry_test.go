package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestClientsPushAndPullImages(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	img := randomImage(t, 3)
	reg.push(t, "shop/cart:1", img)
	got, err := remote.Image(reg.ref(t, "shop/cart:1"))
	must(t, err)
	want, err := img.Digest()
	must(t, err)
	if d, err := got.Digest(); err != nil || d != want {
		t.Errorf("pulled %v, %v", d, err)
	}
	layers, err := got.Layers()
	must(t, err)
	for _, l := range layers {
		rc, err := l.Uncompressed()
		must(t, err)
		_, err = io.Copy(io.Discard, rc)
		must(t, err)
	}
	_, err = remote.Image(reg.ref(t, "shop/cart:2"))
	if status(err) != http.StatusNotFound {
		t.Errorf("a tag that does not exist: %v", err)
	}
}

func TestTheCatalogListsEveryRepositoryAndTag(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	img := randomImage(t, 1)
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("team-%d/app", i))
		reg.push(t, want[i]+":1", img)
	}
	reg.push(t, "team-0/app:2", img)
	slices.Sort(want)
	host, err := name.NewRegistry(reg.host)
	must(t, err)
	got, err := remote.Catalog(context.Background(), host)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("catalog %v", got)
	}
	tags, err := remote.List(reg.ref(t, "team-0/app:1").Context())
	if err != nil || !slices.Equal(tags, []string{"1", "2"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestImagesSurviveARestart(t *testing.T) {
	data := t.TempDir()
	first := serve(t, Config{DataDir: data})
	first.push(t, "app:1", randomImage(t, 1))
	second := serve(t, Config{DataDir: data})
	if _, err := remote.Image(second.ref(t, "app:1")); err != nil {
		t.Error(err)
	}
}

func TestCollectionFreesDeletedImagesAndSparesTaggedOnes(t *testing.T) {
	data := t.TempDir()
	reg := serve(t, Config{DataDir: data})
	collect(t, reg, CollectOptions{}) // an empty registry is fine
	keep, drop := randomImage(t, 2), randomImage(t, 2)
	index, err := random.Index(1024, 1, 2)
	must(t, err)
	reg.push(t, "keep:1", keep)
	reg.push(t, "drop:1", drop)
	must(t, remote.WriteIndex(reg.ref(t, "multi:1"), index))
	before := files(t, data)
	d, err := drop.Digest()
	must(t, err)
	must(t, remote.Delete(reg.ref(t, "drop@"+d.String())))
	collect(t, reg, CollectOptions{})
	if after := files(t, data); before-after != 4 { // manifest, configuration, two layers
		t.Errorf("%d of %d blobs went, want 4", before-after, before)
	}
	if _, err := remote.Image(reg.ref(t, "keep:1")); err != nil {
		t.Error(err)
	}
	idx, err := remote.Index(reg.ref(t, "multi:1"))
	must(t, err)
	m, err := idx.IndexManifest()
	must(t, err)
	for _, child := range m.Manifests {
		img, err := idx.Image(child.Digest)
		must(t, err)
		if _, err := img.ConfigFile(); err != nil {
			t.Errorf("an image of a tagged index is gone: %v", err)
		}
	}
	// What was collected can be pushed again.
	reg.push(t, "drop:1", drop)
}

func TestWhatIsHeldIsMeasured(t *testing.T) {
	metrics := prometheus.NewPedanticRegistry()
	reg := serve(t, Config{DataDir: t.TempDir(), Register: metrics.MustRegister})
	one, other := randomImage(t, 2), randomImage(t, 1)
	reg.push(t, "shop/one:1", one)
	reg.push(t, "shop/again:1", one) // the same blobs
	reg.push(t, "team/other:1", other)
	size := func(img v1.Image) (bytes int64) {
		m, err := img.Manifest()
		must(t, err)
		bytes, err = img.Size()
		must(t, err)
		for _, l := range append(m.Layers, m.Config) {
			bytes += l.Size
		}
		return bytes
	}
	want := map[string]int64{
		"gantry_registry_storage_bytes": size(one) + size(other), "gantry_registry_storage_blobs": 4 + 3, "gantry_registry_repositories": 3,
		"gantry_registry_namespace_bytes shop": size(one), "gantry_registry_namespace_bytes team": size(other),
	}
	var got map[string]int64
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		families, err := metrics.Gather()
		must(t, err)
		got = map[string]int64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				if _, asked := want[name]; asked {
					got[name] = int64(m.GetGauge().GetValue())
				}
			}
		}
		if maps.Equal(got, want) {
			return
		}
	}
	t.Errorf("held is %v, want %v", got, want)
}

func TestCollectionSparesWhatIsDeployedByDigestOrJustPushed(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	old, current := randomImage(t, 1), randomImage(t, 1)
	reg.push(t, "shop/app:latest", old)
	reg.push(t, "shop/app:latest", current) // the tag moves
	former, err := old.Digest()
	must(t, err)
	there := func() bool {
		_, err := remote.Image(reg.ref(t, "shop/app@"+former.String()))
		return err == nil
	}
	collect(t, reg, CollectOptions{UntaggedFor: time.Hour})
	if !there() {
		t.Error("a manifest pushed just now went")
	}
	collect(t, reg, CollectOptions{InUse: func(repository string, d digest.Digest) bool {
		return repository == "shop/app" && d.String() == former.String()
	}})
	if !there() {
		t.Error("a manifest in use went")
	}
	if got := collect(t, reg, CollectOptions{}); got.Manifests != 1 || there() {
		t.Errorf("the former image is still there; collected %+v", got)
	}
	if _, err := remote.Image(reg.ref(t, "shop/app:latest")); err != nil {
		t.Error(err)
	}
}

func TestAMultiPlatformIndexMayHoldOnlySomeOfItsImages(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	index, err := random.Index(64, 1, 1)
	must(t, err)
	index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: missing{randomImage(t, 1)}})
	hash, err := index.Digest()
	must(t, err)
	raw, err := index.RawManifest()
	must(t, err)
	req, err := http.NewRequest(http.MethodPut, "http://"+reg.host+"/v2/part/manifests/"+hash.String(), strings.NewReader(string(raw)))
	must(t, err)
	req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("answered %s", resp.Status)
	}
}

func TestAContentThatDoesNotMatchItsDigestIsRefused(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	resp, err := http.Post("http://"+reg.host+"/v2/app/blobs/uploads/", "", nil)
	must(t, err)
	resp.Body.Close()
	at, err := resp.Location()
	must(t, err)
	where := at.String() + "?digest=sha256:" + strings.Repeat("0", 64)
	req, err := http.NewRequest(http.MethodPut, where, strings.NewReader("something else"))
	must(t, err)
	resp, err = http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %s", resp.Status)
	}
}

func TestALoginDecides(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir(), Login: readersAndWriter{}})
	img := randomImage(t, 1)
	writer := remote.WithAuth(&authn.Basic{Username: "writer", Password: "pw"})
	reader := remote.WithAuth(&authn.Basic{Username: "reader", Password: "pw"})
	must(t, remote.Write(reg.ref(t, "app:1"), img, writer))
	if _, err := remote.Image(reg.ref(t, "app:1"), reader); err != nil {
		t.Errorf("a reader may not read: %v", err)
	}
	if err := remote.Write(reg.ref(t, "app:2"), randomImage(t, 1), reader); status(err) != http.StatusForbidden {
		t.Errorf("a reader wrote: %v", err)
	}
	if _, err := remote.Image(reg.ref(t, "app:1")); status(err) != http.StatusUnauthorized {
		t.Errorf("a stranger read: %v", err)
	}
}

func TestAFullDiskRefusesUploadsAndRecovers(t *testing.T) {
	testenv.NeedRoot(t)
	data := t.TempDir()
	must(t, unix.Mount("tmpfs", data, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(data, unix.MNT_DETACH)) })
	reg := serve(t, Config{DataDir: data, MinFreeBytes: 4 << 20})
	small, err := random.Image(64<<10, 1)
	must(t, err)
	reg.push(t, "small:1", small)
	big, err := random.Image(5<<20, 1)
	must(t, err)
	reg.push(t, "big:1", big)
	err = remote.Write(reg.ref(t, "more:1"), randomImage(t, 1))
	if status(err) != http.StatusInsufficientStorage || !strings.Contains(err.Error(), "free disk space") {
		t.Errorf("a push without room: %v", err)
	}
	if resp := get(t, "http://"+reg.host+"/healthz"); resp != http.StatusServiceUnavailable {
		t.Errorf("health answers %d", resp)
	}
	if _, err := remote.Image(reg.ref(t, "small:1")); err != nil {
		t.Errorf("reading while full: %v", err)
	}
	d, err := big.Digest()
	must(t, err)
	must(t, remote.Delete(reg.ref(t, "big@"+d.String())))
	collect(t, reg, CollectOptions{})
	reg.push(t, "more:1", randomImage(t, 1))
	if resp := get(t, "http://"+reg.host+"/healthz"); resp != http.StatusOK {
		t.Errorf("health answers %d", resp)
	}
}

func TestAnUploadOfUnknownLengthLeavesRoomOnTheDisk(t *testing.T) {
	testenv.NeedRoot(t)
	data := t.TempDir()
	must(t, unix.Mount("tmpfs", data, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { must(t, unix.Unmount(data, unix.MNT_DETACH)) })
	reg := serve(t, Config{DataDir: data, MinFreeBytes: 8 << 20})
	endless := io.LimitReader(zeros{}, 1<<30)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, beginUpload(t, reg), endless)
	must(t, err)
	if resp, err := http.DefaultClient.Do(req); err == nil { // or the connection was cut
		must(t, resp.Body.Close())
		if resp.StatusCode < 400 {
			t.Errorf("an upload larger than the disk: %s", resp.Status)
		}
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(data, &st))
	if free := int64(st.Bavail) * st.Bsize; free < 2<<20 {
		t.Errorf("the upload left %d KiB of disk", free>>10)
	}
}

func TestAStuckPushHoldsUpNobodyElse(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	reg.push(t, "app:1", randomImage(t, 1))
	body, stuck := io.Pipe()
	at := beginUpload(t, reg)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, at, body)
	must(t, err)
	pushed := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		pushed <- err
	}()
	_, err = stuck.Write([]byte("the beginning of a layer"))
	must(t, err)
	for uploaded(t, at) == "0-0" { // until the request has arrived
		time.Sleep(time.Millisecond)
	}
	for range 5 {
		collect(t, reg, CollectOptions{})
		reg.push(t, "app:2", randomImage(t, 1))
	}
	must(t, stuck.Close())
	must(t, <-pushed)
	if got := uploaded(t, at); got != "0-23" {
		t.Errorf("after collections the upload has %s", got)
	}
}

// uploaded asks how much of an upload is there.
func uploaded(t *testing.T, at string) string {
	t.Helper()
	resp, err := http.Get(at)
	must(t, err)
	must(t, resp.Body.Close())
	return resp.Header.Get("Range")
}

// beginUpload opens an upload and returns where its content goes.
func beginUpload(t *testing.T, reg served) string {
	t.Helper()
	resp, err := http.Post("http://"+reg.host+"/v2/app/blobs/uploads/", "", nil)
	must(t, err)
	must(t, resp.Body.Close())
	at, err := resp.Location()
	must(t, err)
	return at.String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestAnIdleRegistryIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := New(Config{DataDir: t.TempDir()})
	must(t, err)
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapInuse) - int64(before.HeapInuse)
	t.Logf("heap grew by %d KiB", grown>>10)
	if grown > 2<<20 {
		t.Errorf("an idle registry holds %d KiB", grown>>10)
	}
	runtime.KeepAlive(r)
}

func collect(t *testing.T, reg served, opt CollectOptions) Collected {
	t.Helper()
	got, err := reg.Collect(context.Background(), opt)
	must(t, err)
	return got
}

// readersAndWriter lets "reader" pull and "writer" do everything.
type readersAndWriter struct{}

func (readersAndWriter) Login(r *http.Request) (Caller, error) {
	if user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return caller(user), nil
	}
	user, _, ok := r.BasicAuth()
	if !ok {
		return nil, ErrUnauthenticated
	}
	return caller(user), nil
}

func (readersAndWriter) Token(r *http.Request) (string, time.Duration, error) {
	user, _, ok := r.BasicAuth()
	if !ok {
		return "", 0, ErrUnauthenticated
	}
	return user, time.Minute, nil
}

type caller string

func (c caller) May(_ context.Context, action Action, repository string) error {
	if c != "writer" && action != Pull {
		return fmt.Errorf("%w: %s may not %s %s", ErrDenied, c, action, repository)
	}
	return nil
}

// missing is an image that is in an index but is never uploaded.
type missing struct{ v1.Image }

type served struct {
	*Registry
	host string
}

func serve(t *testing.T, cfg Config) served {
	t.Helper()
	if cfg.MinFreeBytes == 0 {
		cfg.MinFreeBytes = 1
	}
	cfg.Storage = testBucket(cfg.DataDir)
	r, err := New(cfg)
	must(t, err)
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return served{r, strings.TrimPrefix(srv.URL, "http://")}
}

func (s served) ref(t *testing.T, repo string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.host + "/" + repo)
	must(t, err)
	return ref
}

func (s served) push(t *testing.T, repo string, img v1.Image) {
	t.Helper()
	must(t, remote.Write(s.ref(t, repo), img))
}

func randomImage(t *testing.T, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(1024, layers)
	must(t, err)
	return img
}

// files counts the blobs that are kept.
func files(t *testing.T, data string) (n int) {
	t.Helper()
	if address := testBucket(data); address != "" {
		return objects(t, address)
	}
	must(t, filepath.WalkDir(filepath.Join(data, "registry"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "data" && strings.Contains(path, "/blobs/") {
			n++
		}
		return err
	}))
	return n
}

func get(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	return resp.StatusCode
}

func status(err error) int {
	var te *transport.Error
	if errors.As(err, &te) {
		return te.StatusCode
	}
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
