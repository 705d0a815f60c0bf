package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// fixed is one policy for a namespace.
type fixed struct {
	namespace string
	Policy
}

func (f fixed) Of(repository string) (Policy, error) {
	if Namespace(repository) != f.namespace {
		return Policy{}, nil
	}
	p := f.Policy
	if p.Upstream != nil {
		up := *p.Upstream
		up.Repository = strings.TrimPrefix(repository, f.namespace+"/")
		p.Upstream = &up
	}
	return p, nil
}

func TestAnImmutableTagIsNeitherMovedNorDeleted(t *testing.T) {
	a := newAPI(t, Config{Policies: fixed{"shop", Policy{Immutable: func(tag string) bool { return tag != "latest" }}}})
	one := a.image("shop/cart", digest.SHA256, nil)
	two := []byte(strings.Replace(string(one), `{`, `{ `, 1)) // another digest
	for _, tag := range []string{"1", "latest"} {
		a.putManifest("shop/cart", tag, one).want(t, http.StatusCreated, "")
		a.putManifest("shop/cart", tag, one).want(t, http.StatusCreated, "") // the same again
	}
	refused := a.putManifest("shop/cart", "1", two).want(t, http.StatusForbidden, "DENIED")
	if !strings.Contains(string(refused.body), "tag 1 of shop/cart is immutable and cannot be moved: push another tag") {
		t.Errorf("the refusal is %s", refused.body)
	}
	a.putManifest("shop/cart", "latest", two).want(t, http.StatusCreated, "")
	a.do("DELETE", "shop/cart/manifests/1", nil).want(t, http.StatusForbidden, "DENIED")
	a.do("DELETE", "shop/cart/manifests/"+digest.FromBytes(one).String(), nil).want(t, http.StatusForbidden, "DENIED")
	a.do("DELETE", "shop/cart/manifests/latest", nil).want(t, http.StatusAccepted, "")
	if got := a.do("GET", "shop/cart/manifests/1", nil); string(got.body) != string(one) {
		t.Errorf("the tag names %s", got.body)
	}
	a.image("other/cart", digest.SHA256, nil)
}

func TestAQuotaCountsEachBlobOfTheNamespaceOnce(t *testing.T) {
	quota := int64(1000)
	data := t.TempDir()
	reg := serve(t, Config{DataDir: data, Policies: fixed{"shop", Policy{Quota: &quota}}})
	a := api{t, "http://" + reg.host + "/v2/"}
	big := []byte(strings.Repeat("x", 600))
	a.pushBlob("shop/cart", big, digest.SHA256)
	a.pushBlob("shop/pay", big, digest.SHA256) // is there already
	other := []byte(strings.Repeat("y", 401))
	refused := a.do("POST", "shop/cart/blobs/uploads/?digest="+digest.FromBytes(other).String(), other).want(t, http.StatusForbidden, "DENIED")
	if want := "the repositories of namespace shop may have 1000 bytes: it has 600 bytes, and this would add 401"; !strings.Contains(string(refused.body), want) {
		t.Errorf("the refusal is %s", refused.body)
	}
	a.pushBlob("else/where", other, digest.SHA256)
	a.do("POST", "shop/cart/blobs/uploads/?mount="+digest.FromBytes(other).String()+"&from=else/where", nil).want(t, http.StatusForbidden, "DENIED")
	huge := []byte(strings.Repeat("z", 5000))
	at := a.do("POST", "shop/cart/blobs/uploads/", nil).Header.Get("Location")
	a.do("PATCH", at, huge).want(t, http.StatusForbidden, "DENIED")
	a.do("DELETE", at, nil).want(t, http.StatusNoContent, "")
	if left := leftovers(t, data); len(left) > 0 {
		t.Errorf("left of refused uploads: %v", left)
	}
	for _, repo := range []string{"shop/cart", "shop/pay"} {
		a.do("DELETE", repo+"/blobs/"+digest.FromBytes(big).String(), nil).want(t, http.StatusAccepted, "")
	}
	a.pushBlob("shop/cart", other, digest.SHA256)
	if got, err := reg.Usage("shop"); err != nil || got.Bytes != 401 {
		t.Errorf("usage %+v, %v", got, err)
	}
}

func TestTagsThatAreNotRetainedGoUnlessTheyAreMoved(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	for _, tag := range []string{"1", "2", "3"} {
		reg.push(t, "shop/cart:"+tag, randomImage(t, 1))
	}
	reg.push(t, "shopping/cart:1", randomImage(t, 1))
	removed, err := reg.Retain("shop", func(name string, tags []Tagged) []Tagged {
		if name != "cart" || len(tags) != 3 || tags[0].Pushed.IsZero() {
			t.Errorf("asked about %s with %+v", name, tags)
		}
		tags[1].Digest = digest.FromString("it was moved since")
		return tags[:2]
	})
	if err != nil || removed != 1 {
		t.Errorf("removed %d, %v", removed, err)
	}
	left, err := remote.List(reg.ref(t, "shop/cart").Context())
	if err != nil || fmt.Sprint(left) != "[2 3]" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestWithoutItsPoliciesARegistryOnlyReads(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir(), Policies: unknown{}})
	a := api{t, "http://" + reg.host + "/v2/"}
	a.do("POST", "shop/cart/blobs/uploads/", nil).want(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	a.do("GET", "shop/cart/tags/list", nil).want(t, http.StatusNotFound, "NAME_UNKNOWN")
}

type unknown struct{}

func (unknown) Of(string) (Policy, error) { return Policy{}, errors.New("not known yet") }

// upstreamOf starts a registry and one that keeps its images under cache/.
func upstreamOf(t *testing.T, refresh time.Duration, login func(context.Context) (string, string, error), wrap func(http.Handler) http.Handler, pushed func(Event)) (upstream, cache served, stop func()) {
	t.Helper()
	cfg := Config{DataDir: t.TempDir()}
	if login != nil {
		cfg.Login = readersAndWriter{}
	}
	r, err := New(cfg)
	must(t, err)
	srv := httptest.NewServer(wrap(r))
	t.Cleanup(srv.Close)
	upstream = served{r, strings.TrimPrefix(srv.URL, "http://")}
	cache = serve(t, Config{DataDir: t.TempDir(), Pushed: pushed, Policies: fixed{"cache", Policy{Upstream: &Upstream{Server: srv.URL, Refresh: refresh, Login: login}}}})
	return upstream, cache, srv.Close
}

func asIs(h http.Handler) http.Handler { return h }

func TestImagesArePulledThroughAndKept(t *testing.T) {
	var blobs atomic.Int64
	upstream, cache, stop := upstreamOf(t, 0, nil, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	}, nil)
	img := randomImage(t, 3)
	upstream.push(t, "library/nginx:1", img)
	var all sync.WaitGroup
	for range 8 { // at once: each blob is fetched once
		all.Go(func() { verify(t, cache.ref(t, "cache/library/nginx:1"), img) })
	}
	all.Wait()
	if n := blobs.Load(); n != 4 {
		t.Errorf("%d blobs were fetched, of 4", n)
	}
	moved := randomImage(t, 1)
	upstream.push(t, "library/nginx:1", moved)
	verify(t, cache.ref(t, "cache/library/nginx:1"), moved)
	if _, err := remote.Image(cache.ref(t, "cache/library/none:1")); status(err) != http.StatusNotFound {
		t.Errorf("what the upstream does not have: %v", err)
	}
	if err := remote.Write(cache.ref(t, "cache/mine:1"), img); status(err) != http.StatusMethodNotAllowed {
		t.Errorf("a push to the cache: %v", err)
	}
	stop()
	verify(t, cache.ref(t, "cache/library/nginx:1"), moved)
	collect(t, cache, CollectOptions{})
	verify(t, cache.ref(t, "cache/library/nginx:1"), moved)
	if _, err := remote.Image(cache.ref(t, "cache/library/nginx:2")); status(err) != http.StatusBadGateway {
		t.Errorf("what is not here, without the upstream: %v", err)
	}
}

func TestATagIsNotAskedForAgainTooSoon(t *testing.T) {
	var told atomic.Pointer[Event]
	upstream, cache, _ := upstreamOf(t, time.Hour, nil, asIs, func(e Event) { told.Store(&e) })
	img := randomImage(t, 1)
	upstream.push(t, "app:1", img)
	verify(t, cache.ref(t, "cache/app:1"), img)
	if e := told.Load(); e == nil || e.Repository != "cache/app" || e.Tag != "1" {
		t.Errorf("told of %+v", e)
	}
	upstream.push(t, "app:1", randomImage(t, 1))
	verify(t, cache.ref(t, "cache/app:1"), img)
}

func TestAnUpstreamThatLiesIsNotBelieved(t *testing.T) {
	upstream, cache, _ := upstreamOf(t, 0, nil, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				_, _ = w.Write([]byte("something else"))
				return
			}
			h.ServeHTTP(w, r)
		})
	}, nil)
	img := randomImage(t, 1)
	upstream.Registry.login = anybody{}
	must(t, remote.Write(upstream.ref(t, "app:1"), img))
	a := api{t, "http://" + cache.host + "/v2/"}
	m, err := img.Manifest()
	must(t, err)
	a.do("GET", "cache/app/manifests/1", nil).want(t, http.StatusOK, "")
	a.do("GET", "cache/app/blobs/"+m.Layers[0].Digest.String(), nil).want(t, http.StatusBadGateway, "UNAVAILABLE")
	if kept, err := cache.store.HasBlob("cache/app", digest.Digest(m.Layers[0].Digest.String())); kept || err != nil {
		t.Error("the lie was kept", err)
	}
}

func TestAnUpstreamsLoginIsSentToItOnly(t *testing.T) {
	user := "reader"
	upstream, cache, _ := upstreamOf(t, 0, func(context.Context) (string, string, error) { return user, "pw", nil }, asIs, nil)
	img := randomImage(t, 1)
	upstream.Registry.login = anybody{}
	must(t, remote.Write(upstream.ref(t, "app:1"), img))
	upstream.Registry.login = readersAndWriter{}
	verify(t, cache.ref(t, "cache/app:1"), img)
}

func TestARegistryThatIsItsOwnUpstreamNotices(t *testing.T) {
	var server string
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	server = srv.URL
	r, err := New(Config{DataDir: t.TempDir(), Policies: fixed{"cache", Policy{Upstream: &Upstream{Server: server}}}})
	must(t, err)
	srv.Config.Handler = r
	a := api{t, server + "/v2/"}
	a.do("GET", "cache/app/manifests/1", nil).want(t, http.StatusBadGateway, "UNAVAILABLE")
}
