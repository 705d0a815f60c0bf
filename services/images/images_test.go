package images_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/images"
)

// world is a registry, an API that lets ann pull from shop and root from everywhere, and the service.
type world struct {
	*testing.T
	host    string
	own     *attest.Signer // of the installation
	team    *attest.Signer // whom a TrustPolicy knows
	service *images.Service
}

func newWorld(t *testing.T) *world {
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	w := &world{T: t, host: strings.TrimPrefix(server.URL, "http://")}
	var pem string
	w.own, _ = w.key()
	w.team, pem = w.key()
	api := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		out.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/trustpolicies") {
			fmt.Fprintf(out, `{"kind":"TrustPolicyList","apiVersion":"gantry.dev/v1alpha1","items":[{"metadata":{"name":"p"},"spec":{"signatures":{"keys":[{"name":"team","pem":%q}]}}}]}`, pem)
			return
		}
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		a := review.Spec.ResourceAttributes
		if a.Group != "gantry.dev" || a.Resource != "repositories" || a.Verb != "get" {
			t.Errorf("the API is asked for %+v", a)
		}
		review.Kind, review.APIVersion = "SubjectAccessReview", "authorization.k8s.io/v1"
		review.Status.Allowed = review.Spec.User == "root" || review.Spec.User == "ann" && a.Namespace == "shop"
		out.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(out).Encode(review)
	}))
	t.Cleanup(api.Close)
	var err error
	w.service, err = images.New(images.Config{
		Client: &rest.Config{Host: api.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Registry: w.host,
		InstanceKey: func(context.Context) (*attest.PublicKey, error) { return w.own.Public, nil },
		User: func(r *http.Request) (user.Info, bool) {
			return &user.DefaultInfo{Name: r.Header.Get("User")}, r.Header.Get("User") != ""
		},
	})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) key() (*attest.Signer, string) {
	password := []byte("of a test")
	private, public, err := attest.GenerateKey(password)
	w.must(err)
	signer, err := attest.ParsePrivateKey(private, password)
	w.must(err)
	return signer, string(public)
}

// push makes an image of layers, each of some bytes.
func (w *world) push(tag string, layers ...string) name.Digest {
	w.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, content := range layers {
		var err error
		image, err = mutate.Append(image, mutate.Addendum{Layer: static.NewLayer([]byte(content), types.OCIUncompressedLayer), History: v1.History{CreatedBy: "COPY " + content}})
		w.must(err)
	}
	image, err := mutate.Config(image, v1.Config{User: "1000", Cmd: []string{"/app"}})
	w.must(err)
	ref, err := name.NewTag(w.host + "/" + tag)
	w.must(err)
	w.must(remote.Write(ref, image))
	digest, err := image.Digest()
	w.must(err)
	return ref.Context().Digest(digest.String())
}

func (w *world) attach(image name.Digest, kind string, predicate any, key *attest.Signer) {
	w.Helper()
	w.must(attest.Attach(w.Context(), image, kind, predicate, key, attest.Referrer))
}

// ask is what somebody is answered.
func ask[T any](w *world, who, path string, query url.Values) (status int, body T) {
	w.Helper()
	r := httptest.NewRequest(http.MethodGet, images.Prefix+"api/v1/"+path+"?"+query.Encode(), nil)
	r.Header.Set("User", who)
	out := httptest.NewRecorder()
	w.service.ServeHTTP(out, r)
	if err := json.Unmarshal(out.Body.Bytes(), &body); err != nil {
		w.Fatalf("%s: %v: %s", path, err, out.Body)
	}
	return out.Code, body
}

func scanResult(w *world, at time.Time, more map[string]any) attest.Scan {
	result, err := json.Marshal(more)
	w.must(err)
	return attest.Scan{Scanner: attest.Scanner{URI: "https://gantry.dev/scan", Result: result}, Metadata: attest.ScanMetadata{Started: at, Finished: at}}
}

func TestWhatIsKnownOfAnImage(t *testing.T) {
	w := newWorld(t)
	w.push("base/os:1", "os")
	w.push("base/os:old", "older")
	runtime := w.push("base/runtime:2", "os", "runtime")
	cart := w.push("shop/cart:1", "os", "runtime", "cart")
	w.must(attest.Sign(t.Context(), cart, w.own, attest.Referrer))
	w.must(attest.Sign(t.Context(), cart, w.team, attest.Referrer))
	stranger, _ := w.key()
	w.must(attest.Sign(t.Context(), cart, stranger, attest.Referrer))
	w.attach(cart, attest.ProvenancePredicate, map[string]any{
		"buildDefinition": map[string]any{
			"externalParameters":   map[string]any{"repository": "https://git.example/shop"},
			"resolvedDependencies": []any{map[string]any{"uri": "git+x", "digest": map[string]string{"gitCommit": "c0ffee"}}},
		},
		"runDetails": map[string]any{"builder": map[string]string{"id": "worker"}, "metadata": map[string]string{"invocationId": "shop/7"}},
	}, w.own)
	now := time.Now().UTC().Truncate(time.Second)
	newest := map[string]any{
		"summary":         map[string]int{"critical": 1, "low": 1, "fixable": 1, "secrets": 1, "faults": 2},
		"vulnerabilities": []any{map[string]any{"id": "CVE-1", "severity": "critical", "package": "ssl", "installed": "1", "fixed": "2"}, map[string]any{"id": "CVE-2", "severity": "low", "package": "c", "installed": "1"}},
		"faults":          []any{map[string]any{"rule": "secret", "severity": "high", "message": "a key is in the image"}},
		"packages":        []any{map[string]any{"name": "ssl"}, map[string]any{"name": "c"}},
	}
	w.attach(cart, attest.VulnerabilityPredicate, scanResult(w, now, newest), w.own)
	w.attach(cart, attest.VulnerabilityPredicate, scanResult(w, now.Add(-time.Hour), map[string]any{"summary": map[string]int{"critical": 9}}), w.own)
	// What nobody known has signed says nothing.
	w.attach(cart, attest.VulnerabilityPredicate, scanResult(w, now.Add(time.Hour), map[string]any{"summary": map[string]int{}}), stranger)
	w.attach(cart, attest.SPDXPredicate, map[string]any{}, stranger)

	status, got := ask[images.Details](w, "root", "image", url.Values{"name": {"shop/cart@" + cart.DigestStr()}})
	if status != http.StatusOK || !slices.Equal(got.SignedBy, []string{"instance", "team"}) || got.Unknown != 1 || got.SBOM || len(got.Attached) != 8 {
		t.Errorf("%d: signed by %v and %d others, SBOM %v, %d attached", status, got.SignedBy, got.Unknown, got.SBOM, len(got.Attached))
	}
	if b := got.Base; b == nil || b.Repository != "base/runtime" || b.Tag != "2" || b.Digest != runtime.DigestStr() || b.Layers != 2 {
		t.Errorf("its base is %+v", got.Base)
	}
	if p := got.Provenance; p == nil || *p != (images.Provenance{Source: "https://git.example/shop", Commit: "c0ffee", Build: "shop/7", Builder: "worker"}) {
		t.Errorf("its provenance is %+v", got.Provenance)
	}
	if s := got.Scan; s == nil || s.Critical != 1 || s.High != 0 || s.Low != 1 || s.Fixable != 1 || s.Secrets != 1 || !s.Finished.Equal(now) {
		t.Errorf("its scan is %+v", got.Scan)
	}
	if len(got.Findings) != 2 || got.Findings[0].ID != "CVE-1" || got.Findings[0].Fixed != "2" || len(got.Faults) != 1 || got.Packages != 2 {
		t.Errorf("findings %+v, faults %+v, %d packages", got.Findings, got.Faults, got.Packages)
	}
	if len(got.Layers) != 3 || got.Layers[2].CreatedBy != "COPY cart" || got.User != "1000" || !slices.Equal(got.Tags, []string{"1"}) {
		t.Errorf("layers %+v, user %q, tags %v", got.Layers, got.User, got.Tags)
	}
	_, below := ask[images.Details](w, "root", "image", url.Values{"name": {w.host + "/base/runtime:2"}})
	if len(below.DerivedFor) != 1 || below.DerivedFor[0].Repository != "shop/cart" || below.Base.Repository != "base/os" || below.Base.Tag != "1" {
		t.Errorf("on the base are built %+v, it is built on %+v", below.DerivedFor, below.Base)
	}

	_, list := ask[images.List](w, "root", "images", nil)
	var names []string
	for _, i := range list.Images {
		names = append(names, i.Repository+":"+strings.Join(i.Tags, ","))
		if i.Repository == "shop/cart" && (i.Scan == nil || i.Scan.Critical != 1 || i.Base == nil) {
			t.Errorf("the list says %+v", i)
		}
	}
	slices.Sort(names)
	if !list.Complete || !slices.Equal(names, []string{"base/os:1", "base/os:old", "base/runtime:2", "shop/cart:1"}) {
		t.Errorf("the list is %v", names)
	}
}

func TestEverybodySeesWhatTheyMayPull(t *testing.T) {
	w := newWorld(t)
	base := w.push("base/os:1", "os")
	w.push("shop/cart:1", "os", "cart")
	_, list := ask[images.List](w, "ann", "images", nil)
	if len(list.Images) != 1 || list.Images[0].Repository != "shop/cart" || list.Images[0].Base != nil {
		t.Errorf("ann sees %+v", list.Images)
	}
	for _, c := range []struct {
		who, name string
		want      int
	}{
		{"ann", "shop/cart:1", http.StatusOK}, {"ann", "base/os@" + base.DigestStr(), http.StatusForbidden}, {"ann", "base/none:1", http.StatusForbidden},
		{"bob", "shop/cart:1", http.StatusForbidden}, {"", "shop/cart:1", http.StatusUnauthorized},
		{"ann", "shop/none:1", http.StatusNotFound}, {"ann", "shop/CART?:1", http.StatusBadRequest}, {"ann", "", http.StatusBadRequest},
		{"ann", "evil.example/shop/cart:1", http.StatusForbidden},
	} {
		if status, body := ask[map[string]any](w, c.who, "image", url.Values{"name": {c.name}}); status != c.want || c.want != http.StatusOK && body["message"] == "" {
			t.Errorf("%s asks for %q: %d, want %d: %v", c.who, c.name, status, c.want, body["message"])
		}
	}
}
