package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/testenv"
)

func TestAPulledImageBecomesARootDirectoryThatOutlivesTheProcess(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "shop/cart:1", image(t,
		layer(t, dir("etc"), file("etc/motd", "old"), file("gone", "x")),
		layer(t, file("etc/motd", "new"), file(".wh.gone", "")),
		layer(t, file("bin/cart", "#!"), symlink("usr/cart", "/bin/cart"))))
	data := tempDir(t)
	s := open(t, data)
	ctx := context.Background()

	var stages []Stage
	img, err := s.Pull(ctx, ref, PullOptions{Progress: func(p Progress) { stages = append(stages, p.Stage) }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != ref || img.Size == 0 || len(img.Config.RootFS.DiffIDs) != 3 {
		t.Errorf("pulled %+v", img)
	}
	if len(stages) < 2 || stages[len(stages)-1] != Done {
		t.Errorf("progress went %v", stages)
	}
	root := mountRoot(t, s, "cart-0", ref)
	if got := read(t, root, "etc/motd"); got != "new" {
		t.Errorf("etc/motd = %q", got)
	}
	if _, err := os.Lstat(filepath.Join(root, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a file deleted by a later layer is there")
	}
	write(t, root, "data", "mine")

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, data)
	if again, err := s.Mount(ctx, "cart-0", ref, nil); err != nil || again != root || read(t, root, "data") != "mine" {
		t.Fatalf("after a restart: %q, %v", again, err)
	}
	must(t, unix.Unmount(root, unix.MNT_DETACH)) // as a reboot would
	if _, err := s.Mount(ctx, "cart-0", ref, nil); err != nil || read(t, root, "data") != "mine" {
		t.Fatalf("after a reboot: %v", err)
	}

	must(t, s.Unmount(ctx, "cart-0"))
	must(t, s.Unmount(ctx, "cart-0"))
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the root directory is still there")
	}
}

func TestCollectionSparesWhatIsInUseAndFreesTheRest(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	used := reg.push(t, "used:1", image(t, layer(t, file("a", strings.Repeat("a", 1<<20)))))
	named := reg.push(t, "named:1", image(t, layer(t, file("b", strings.Repeat("b", 1<<20)))))
	unused := reg.push(t, "unused:1", image(t, layer(t, file("c", strings.Repeat("c", 1<<20)))))
	s := open(t, tempDir(t))
	ctx := context.Background()
	for _, ref := range []string{used, named, unused} {
		pull(t, s, ref)
	}
	root := mountRoot(t, s, "c1", used)
	keep, err := s.Get(ctx, named)
	must(t, err)

	freed, err := s.GC(ctx, func(d digest.Digest) bool { return d.String() == keep.Digest })
	must(t, err)
	if len(freed.Images) != 1 || freed.Images[0] != unused || freed.Bytes < 1<<20 {
		t.Errorf("freed %+v", freed)
	}
	if _, err := s.Get(ctx, unused); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unused image: %v", err)
	}
	// A name may go while a container still runs on the layers.
	must(t, s.Remove(ctx, used))
	must(t, s.collect(s.context(ctx)))
	if got := read(t, root, "a"); len(got) != 1<<20 {
		t.Error("a running container lost its layer")
	}
	must(t, s.Unmount(ctx, "c1"))
	must(t, s.Remove(ctx, named))
	must(t, s.collect(s.context(ctx)))
	if left := blobs(t, s); left != 0 {
		t.Errorf("%d blobs are left", left)
	}
	if u, err := s.FSUsage(ctx); err != nil || u.ImageBytes != 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

func TestATagThatMovedLeavesTheFormerImageByDigest(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "web:latest", image(t, layer(t, file("v", "1"))))
	s := open(t, tempDir(t))
	ctx := context.Background()
	first := pull(t, s, ref)
	reg.push(t, "web:latest", image(t, layer(t, file("v", "2"))))
	second := pull(t, s, ref)
	if first.Digest == second.Digest {
		t.Fatal("the tag did not move")
	}
	for _, name := range []string{first.RepoDigest(), first.Digest, first.ID} {
		if got, err := s.Get(ctx, name); err != nil || got.Digest != first.Digest {
			t.Errorf("Get(%q) = %v, %v", name, got, err)
		}
	}
	root := mountRoot(t, s, "old", first.RepoDigest())
	if got := read(t, root, "v"); got != "1" {
		t.Errorf("v = %q", got)
	}
	// A pinned name of what is here is found without another pull.
	if got, err := s.Get(ctx, second.RepoDigest()); err != nil || got.Digest != second.Digest {
		t.Errorf("pinned: %v, %v", got, err)
	}
}

func TestOfAMultiPlatformImageThisMachinesPartIsPulled(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	here, other := image(t, layer(t, file("arch", "here"))), image(t, layer(t, file("arch", "other")))
	index := func(adds ...mutate.IndexAddendum) v1.ImageIndex { return mutate.AppendManifests(empty.Index, adds...) }
	add := func(img v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	mine := strings.TrimPrefix(strings.SplitN(platformName(), "(", 2)[0], "linux/")
	ref := reg.pushIndex(t, "multi:1", index(add(other, "s390x"), add(here, mine)))
	s := open(t, tempDir(t))
	pull(t, s, ref)
	if got := read(t, mountRoot(t, s, "m", ref), "arch"); got != "here" {
		t.Errorf("arch = %q", got)
	}
	foreign := reg.pushIndex(t, "foreign:1", index(add(other, "s390x")))
	_, err := s.Pull(context.Background(), foreign, PullOptions{})
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "s390x") {
		t.Errorf("pulling a foreign image: %v", err)
	}
}

func TestARefusedPullSaysWhy(t *testing.T) {
	reg := newRegistry(t)
	private := newRegistry(t)
	ref := private.push(t, "secret:1", image(t, layer(t, file("a", "b"))))
	private.require("ann", "pw")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := open(t, tempDir(t))
	for _, c := range []struct {
		ref  string
		kind error
		says string
		keys Keychain
	}{
		{reg.host + "/no/such:1", fs.ErrNotExist, "no such repository or tag", nil},
		{ref, ErrUnauthorized, "refuses access", nil},
		{ref, ErrUnauthorized, "refuses access", func(string) (string, string, bool) { return "ann", "wrong", true }},
		{strings.TrimPrefix(gone.URL, "http://") + "/a:1", ErrUnreachable, "connection refused", nil},
		{"127.0.0.1:5000/UPPER", ErrBadName, "lowercase", nil},
	} {
		_, err := s.Pull(context.Background(), c.ref, PullOptions{Keychain: c.keys})
		if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("pull %s: %v", c.ref, err)
		}
		if c.kind != ErrBadName && hint.Of(err) == "" {
			t.Errorf("pull %s: no hint", c.ref)
		}
	}
	testenv.NeedRoot(t)
	keys := func(host string) (string, string, bool) { return "ann", "pw", host == private.host }
	if _, err := s.Pull(context.Background(), ref, PullOptions{Keychain: keys}); err != nil {
		t.Errorf("with the right password: %v", err)
	}
}

func TestConcurrentPullsOfOneImageFetchItOnce(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "same:1", image(t, layer(t, file("a", "1")), layer(t, file("b", "2"))))
	alias := reg.push(t, "alias:1", image(t, layer(t, file("a", "1")), layer(t, file("b", "2"))))
	s := open(t, tempDir(t))
	reg.reset()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Pull(context.Background(), []string{ref, alias}[i%2], PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for path, n := range reg.blobGets() {
		if n > 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
}

func TestAPullOutlivesTheCallerThatStartedIt(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "slow:1", image(t, layer(t, file("a", "1"))))
	s := open(t, tempDir(t))
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.before = func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			once.Do(func() { close(started) })
			<-release
		}
	}
	impatient, giveUp := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() { _, err := s.Pull(impatient, ref, PullOptions{}); first <- err }()
	<-started
	second := make(chan error, 1)
	go func() { _, err := s.Pull(context.Background(), ref, PullOptions{}); second <- err }()
	waitFor(t, func() bool {
		s.pulls.mu.Lock()
		defer s.pulls.mu.Unlock()
		return s.pulls.flying[ref] != nil && s.pulls.flying[ref].waiting == 2
	})
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the impatient caller: %v", err)
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("the patient caller: %v", err)
	}
}

func TestAnArchiveCarriesImagesToAnotherStore(t *testing.T) {
	testenv.NeedRoot(t)
	img := image(t, layer(t, file("a", "archived")))
	tag, err := name.NewTag("example.test/app:1")
	must(t, err)
	var docker bytes.Buffer
	must(t, tarball.Write(tag, img, &docker)) // what docker save writes
	ctx := context.Background()
	from := open(t, tempDir(t))
	if _, err := from.Import(ctx, &docker, "", nil); err != nil {
		t.Fatal(err)
	}
	var oci bytes.Buffer
	must(t, from.Export(ctx, &oci, "example.test/app:1"))
	to := open(t, tempDir(t))
	list, err := to.Import(ctx, &oci, "", nil)
	must(t, err)
	if len(list) != 1 || list[0].Name != "example.test/app:1" {
		t.Fatalf("imported %v", list)
	}
	if got := read(t, mountRoot(t, to, "a", "example.test/app:1"), "a"); got != "archived" {
		t.Errorf("a = %q", got)
	}
	reg := newRegistry(t)
	must(t, to.Push(ctx, "example.test/app:1", reg.host+"/app:2", PullOptions{}))
	pull(t, from, reg.host+"/app:2")
	if _, err := to.Import(ctx, strings.NewReader("no tar at all"), "", nil); err == nil {
		t.Error("garbage was imported")
	}
}

func TestOtherProcessesAskOverTheSocket(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1"))))
	data := tempDir(t)
	s := open(t, data)
	c := NewClient(data)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() { stop(); must(t, <-served) })
	waitFor(t, func() bool { _, err := c.List(ctx); return err == nil })
	sum, err := c.Pull(ctx, ref, "", "", nil)
	if err != nil || sum.Name != ref {
		t.Fatalf("pull: %v, %v", sum, err)
	}
	if _, err := c.Pull(ctx, reg.host+"/none:1", "", "", nil); err == nil || hint.Of(err) == "" {
		t.Errorf("pull of nothing: %v", err)
	}
	must(t, c.Tag(ctx, ref, reg.host+"/app:2"))
	if _, err := c.Push(ctx, reg.host+"/app:2", "", "", "", nil); err != nil {
		t.Error(err)
	}
	list, err := c.List(ctx)
	if err != nil || len(list) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
	var tarred bytes.Buffer
	must(t, c.Export(ctx, &tarred, ref))
	must(t, c.Remove(ctx, ref))
	if err := c.Remove(ctx, ref); err == nil {
		t.Error("removed twice")
	}
	if got, err := c.Import(ctx, &tarred, ""); err != nil || got[0].Name != ref {
		t.Errorf("import: %v, %v", got, err)
	}
	_, err = NewClient(tempDir(t)).List(ctx)
	if err == nil || hint.Of(err) == "" {
		t.Errorf("without a server: %v", err)
	}
}

func TestTheStoreIsLockedAgainstASecondProcess(t *testing.T) {
	data := tempDir(t)
	open(t, data)
	if _, err := Open(Config{DataDir: data}); err == nil || !strings.Contains(err.Error(), "another gantry serve") {
		t.Errorf("opened twice: %v", err)
	}
}

// testRegistry is a real registry server in this process.
type testRegistry struct {
	host   string
	before func(*http.Request)

	mu             sync.Mutex
	user, password string
	gets           map[string]int
	corrupt        map[string][]byte // blob digest to what is sent instead
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{gets: map[string]int{}, corrupt: map[string][]byte{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.before != nil {
			r.before(req)
		}
		if !r.admit(w, req) {
			return
		}
		if r.lie(w, req) {
			return
		}
		// This server refuses a range without an end. One may always send the whole
		// instead (RFC 9110, section 14.2), which a pull that goes on must cope with.
		if strings.HasSuffix(req.Header.Get("Range"), "-") {
			req.Header.Del("Range")
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *testRegistry) admit(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
		r.gets[filepath.Base(req.URL.Path)]++
	}
	user, password, _ := req.BasicAuth()
	if r.user == "" || (user == r.user && password == r.password) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

func (r *testRegistry) lie(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	body, ok := r.corrupt[filepath.Base(req.URL.Path)]
	r.mu.Unlock()
	if !ok || req.Method != http.MethodGet {
		return false
	}
	_, _ = w.Write(body)
	return true
}

func (r *testRegistry) require(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user, r.password = user, password
}

func (r *testRegistry) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.gets)
}

func (r *testRegistry) blobGets() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets
}

func (r *testRegistry) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	must(t, err)
	must(t, remote.Write(ref, img))
	return ref.Name()
}

func (r *testRegistry) pushIndex(t testing.TB, repo string, idx v1.ImageIndex) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	must(t, err)
	must(t, remote.WriteIndex(ref, idx))
	return ref.Name()
}

// image is a single-platform image with the given layers.
func image(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	cf, err := img.ConfigFile()
	must(t, err)
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", strings.Split(platformName(), "/")[1]
	img, err = mutate.ConfigFile(img, cf)
	must(t, err)
	return img
}

// entry is one member of a layer's tar.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}, body}
}
func dir(name string) entry {
	return entry{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}
func hardlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}, ""}
}

func layer(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		must(t, tw.WriteHeader(&e.Header))
		_, err := io.WriteString(tw, e.body)
		must(t, err)
	}
	must(t, tw.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	must(t, err)
	return l
}

func open(t testing.TB, data string) *Store {
	t.Helper()
	s, err := Open(Config{DataDir: data})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // some tests close it themselves
	return s
}

func pull(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	img, err := s.Pull(context.Background(), ref, PullOptions{})
	must(t, err)
	return img
}

func mountRoot(t testing.TB, s *Store, id, ref string) string {
	t.Helper()
	root, err := s.Mount(context.Background(), id, ref, nil)
	must(t, err)
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) }) // unmounted already by most tests
	return root
}

// tempDir is a directory that overlay can work on.
func tempDir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "image-test-")
	must(t, err)
	t.Cleanup(func() {
		if err := Cleanup(d); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(d)
	})
	return d
}

func read(t testing.TB, root, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	must(t, err)
	return string(b)
}

func write(t testing.TB, root, path, body string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(root, path), []byte(body), 0o600))
}

// blobs counts the files in the content store.
func blobs(t testing.TB, s *Store) (n int) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(s.dir, "content", "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	}))
	return n
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 10 s")
		}
		time.Sleep(time.Millisecond)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
