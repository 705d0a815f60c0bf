package trust

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/attest"
)

// testKeys are the keys of the tests: the installation's, and one in a Secret.
type testKeys struct{ own, team *attest.Signer }

// madeKeys are the same for all tests: to read a private key takes a while.
var madeKeys = sync.OnceValues(func() (*testKeys, error) {
	own, err := attest.InstanceSigner(context.Background(), fake.NewClientset())
	if err != nil {
		return nil, err
	}
	team, err := attest.InstanceSigner(context.Background(), fake.NewClientset())
	return &testKeys{own, team}, err
})

func newKeys(t *testing.T) *testKeys {
	t.Helper()
	keys, err := madeKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (k *testKeys) instance(context.Context) (*attest.PublicKey, error) { return k.own.Public, nil }

func (k *testKeys) secret(_ context.Context, name string) (*attest.PublicKey, error) {
	if name != "team-key" {
		return nil, fmt.Errorf("secret %q not found", name)
	}
	return k.team.Public, nil
}

// world is a registry and what decides about its images.
type world struct {
	t      *testing.T
	server *httptest.Server
	host   string
	keys   *testKeys
	decide *decider
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, server: httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))), keys: newKeys(t), now: time.Now()}
	t.Cleanup(w.server.Close)
	w.host = strings.TrimPrefix(w.server.URL, "http://")
	accepted, err := openMemory(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.decide = &decider{from: &registries{kube: fake.NewClientset()}, accepted: accepted, now: func() time.Time { return w.now }}
	return w
}

// push makes an image of layers, each of one file.
func (w *world) push(repository string, layers ...string) name.Digest {
	w.t.Helper()
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, content := range layers {
		var b bytes.Buffer
		archive := tar.NewWriter(&b)
		err := archive.WriteHeader(&tar.Header{Name: content, Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = archive.Write([]byte(content))
		}
		if err = errors.Join(err, archive.Close()); err != nil {
			w.t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)); err != nil {
			w.t.Fatal(err)
		}
	}
	tag, err := name.NewTag(w.host + "/" + repository)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		w.t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		w.t.Fatal(err)
	}
	return tag.Context().Digest(digest.String())
}

func (w *world) sign(image name.Digest, key *attest.Signer) {
	w.t.Helper()
	if err := attest.Sign(w.t.Context(), image, key, attest.Referrer); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) attach(image name.Digest, predicateType string, predicate any) {
	w.t.Helper()
	if err := attest.Attach(w.t.Context(), image, predicateType, predicate, w.keys.own, attest.Referrer); err != nil {
		w.t.Fatal(err)
	}
}

// scanned attaches a scan result.
func (w *world) scanned(image name.Digest, at time.Time, found attest.Severities) {
	w.t.Helper()
	result, err := json.Marshal(map[string]any{"summary": found})
	if err != nil {
		w.t.Fatal(err)
	}
	w.attach(image, attest.VulnerabilityPredicate, attest.Scan{Scanner: attest.Scanner{Result: result}, Metadata: attest.ScanMetadata{Started: at, Finished: at}})
}

func (w *world) policy(spec v1alpha1.TrustPolicySpec) *policy {
	if len(spec.Images) == 0 {
		spec.Images = []string{"**"}
	}
	return compile(w.t.Context(), &v1alpha1.TrustPolicy{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: spec}, w.keys)
}

// refused checks that an image is refused for a reason that names all of the texts.
func (w *world) refused(p *policy, image name.Digest, texts ...string) {
	w.t.Helper()
	err := w.decide.decide(w.t.Context(), p, image, image.String())
	if err == nil {
		w.t.Errorf("%s is accepted, want it refused for %q", image, texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			w.t.Errorf("refused with %q, which does not say %q", err, text)
		}
	}
}

func (w *world) accepted(p *policy, image name.Digest) {
	w.t.Helper()
	if err := w.decide.decide(w.t.Context(), p, image, image.String()); err != nil {
		w.t.Error(err)
	}
}

var (
	instanceKey = v1alpha1.TrustKey{Name: "instance", Instance: true}
	teamKey     = v1alpha1.TrustKey{Name: "team", SecretRef: &v1alpha1.TrustSecretReference{Name: "team-key"}}
)

func signedBy(require v1alpha1.TrustRequirement, keys ...v1alpha1.TrustKey) v1alpha1.TrustPolicySpec {
	return v1alpha1.TrustPolicySpec{Signatures: &v1alpha1.TrustSignatures{Keys: keys, Require: require}}
}

func TestSignatures(t *testing.T) {
	w := newWorld(t)
	anyOf := w.policy(signedBy(v1alpha1.TrustAny, instanceKey, teamKey))
	allOf := w.policy(signedBy(v1alpha1.TrustAll, instanceKey, teamKey))
	image := w.push("shop/cart:1", "cart")
	w.refused(anyOf, image, "TrustPolicy test", "rule signatures", "it has no signature", "gantry sign "+image.String())
	w.refused(allOf, image, "key instance", "key team", "gantry sign --key k8s://gantry-system/team-key "+image.String())
	w.sign(image, w.keys.team)
	w.accepted(anyOf, image)
	w.refused(allOf, image, "key instance must have signed too", "gantry sign "+image.String())
	w.sign(image, w.keys.own)
	w.accepted(allOf, image)
	other := w.push("shop/cart:2", "another")
	w.refused(anyOf, other, "it has no signature")
}

func TestAKeyThatIsMissingCloses(t *testing.T) {
	w := newWorld(t)
	image := w.push("shop/cart:1", "cart")
	w.sign(image, w.keys.own)
	missing := v1alpha1.TrustKey{Name: "gone", SecretRef: &v1alpha1.TrustSecretReference{Name: "gone"}}
	w.refused(w.policy(signedBy(v1alpha1.TrustAny, instanceKey, missing)), image, `key "gone"`, "kubectl describe trustpolicy test")
}

func TestBaseImages(t *testing.T) {
	w := newWorld(t)
	base := w.push("base/debian:12", "os", "updates")
	spec := v1alpha1.TrustPolicySpec{BaseImages: &v1alpha1.TrustBaseImages{Allowed: []string{w.host + "/base/debian:12"}}}
	p := w.policy(spec)
	w.accepted(p, w.push("shop/cart:1", "os", "updates", "cart"))
	w.accepted(p, base)
	w.refused(p, w.push("shop/cart:2", "os", "cart"), "rule baseImages", "build it again FROM "+w.host+"/base/debian:12")
	w.refused(p, w.push("shop/cart:3", "cart", "os", "updates"), "rule baseImages")
	spec.BaseImages.Keys = []v1alpha1.TrustKey{instanceKey}
	signed := w.policy(spec)
	image := w.push("shop/cart:4", "os", "updates", "more")
	w.refused(signed, image, "it is built on "+w.host+"/base/debian:12", "it has no signature", "gantry sign "+base.String())
	w.sign(base, w.keys.own)
	w.accepted(signed, image)
	if p := w.policy(v1alpha1.TrustPolicySpec{BaseImages: &v1alpha1.TrustBaseImages{Allowed: []string{"scratch"}}}); p.problem == nil {
		t.Error("scratch is taken for a base image that can be recognised")
	}
}

func TestScanResults(t *testing.T) {
	w := newWorld(t)
	week := metav1.Duration{Duration: 7 * 24 * time.Hour}
	p := w.policy(v1alpha1.TrustPolicySpec{Scan: &v1alpha1.TrustScan{MaxSeverity: v1alpha1.TrustHigh, MaxAge: &week}})
	image := w.push("shop/cart:1", "cart")
	w.refused(p, image, "rule scan", "gantry scan "+image.String())
	w.scanned(image, w.now.Add(-8*24*time.Hour), attest.Severities{})
	w.refused(p, image, "older than 168h")
	w.scanned(image, w.now.Add(-time.Hour), attest.Severities{Critical: 2, High: 1})
	w.refused(p, image, "found 2 of severity Critical", "the worst that is accepted is High")
	w.scanned(image, w.now.Add(-time.Minute), attest.Severities{High: 1})
	w.accepted(p, image)
	// It is looked at again, while the registry answers.
	w.scanned(image, w.now, attest.Severities{Critical: 1})
	w.accepted(p, image)
	w.now = w.now.Add(scanPeriod + time.Second)
	w.refused(p, image, "Critical")
	strict := w.policy(v1alpha1.TrustPolicySpec{Scan: &v1alpha1.TrustScan{MaxSeverity: v1alpha1.TrustNone}})
	clean := w.push("shop/cart:2", "clean")
	w.scanned(clean, w.now, attest.Severities{Unknown: 1})
	w.refused(strict, clean, "severity Medium")
	leaky := w.push("shop/cart:3", "leaky")
	w.scanned(leaky, w.now, attest.Severities{Secrets: 1})
	w.accepted(p, leaky)
	w.refused(strict, leaky, "found 1 of severity High (1 of them credentials in its layers)")
}

func TestScanResultsAgeWhileTheRegistryIsAway(t *testing.T) {
	w := newWorld(t)
	day := metav1.Duration{Duration: 24 * time.Hour}
	p := w.policy(v1alpha1.TrustPolicySpec{Scan: &v1alpha1.TrustScan{MaxSeverity: v1alpha1.TrustHigh, MaxAge: &day}})
	image := w.push("shop/cart:1", "cart")
	w.scanned(image, w.now, attest.Severities{})
	w.accepted(p, image)
	w.server.Close()
	w.now = w.now.Add(23 * time.Hour)
	w.accepted(p, image)
	w.now = w.now.Add(2 * time.Hour)
	w.refused(p, image, "it cannot be checked", "make its registry answer")
}

func TestAttestations(t *testing.T) {
	w := newWorld(t)
	p := w.policy(v1alpha1.TrustPolicySpec{Attestations: []v1alpha1.TrustAttestation{
		{PredicateType: attest.ProvenancePredicate, Builders: []string{"https://gantry.dev/pipeline"}}, {PredicateType: attest.SPDXPredicate}}})
	image := w.push("shop/cart:1", "cart")
	w.refused(p, image, "rule attestations", "gantry attest --type "+attest.SPDXPredicate+" --predicate FILE "+image.String())
	w.attach(image, attest.SPDXPredicate, map[string]string{"spdxVersion": "SPDX-2.3"})
	w.attach(image, attest.ProvenancePredicate, map[string]any{"runDetails": map[string]any{"builder": map[string]any{"id": "https://evil.example"}}})
	w.refused(p, image, "it was built by https://evil.example", "have it built by https://gantry.dev/pipeline")
	w.attach(image, attest.ProvenancePredicate, map[string]any{"runDetails": map[string]any{"builder": map[string]any{"id": "https://gantry.dev/pipeline"}}})
	w.accepted(p, image)
}

// What was accepted stays so without the registry, over a restart, and only for the same policy.
func TestAcceptedImagesAreRemembered(t *testing.T) {
	w := newWorld(t)
	p := w.policy(signedBy(v1alpha1.TrustAny, instanceKey))
	image, other := w.push("shop/cart:1", "cart"), w.push("shop/cart:2", "other")
	w.sign(image, w.keys.own)
	w.sign(other, w.keys.own)
	w.accepted(p, image)
	w.server.Close()
	again, err := openMemory(strings.TrimSuffix(w.decide.accepted.file, "/accepted.jsonl"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.decide.accepted = again
	w.accepted(p, image)
	w.refused(p, other, "it cannot be checked")
	w.refused(w.policy(signedBy(v1alpha1.TrustAny, teamKey)), image, "it cannot be checked")
	again.keep(map[string]bool{})
	w.refused(p, image, "it cannot be checked")
	if left, err := os.ReadFile(again.file); err != nil || len(left) != 0 {
		t.Errorf("the file still holds %q, %v", left, err)
	}
}

// A crash in the middle of a line costs that line.
func TestACutLineIsForgotten(t *testing.T) {
	dir := t.TempDir()
	m, err := openMemory(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"a", "b"} {
		m.add(acceptance{Fingerprint: "f", Image: image})
	}
	whole, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.file, whole[:len(whole)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err = openMemory(dir, nil); err != nil {
		t.Fatal(err)
	}
	m.add(acceptance{Fingerprint: "f", Image: "c"})
	if m, err = openMemory(dir, nil); err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{"a": true, "b": false, "c": true} {
		if _, ok := m.get("f", image); ok != want {
			t.Errorf("%s: remembered %v, want %v", image, ok, want)
		}
	}
}

// A workload whose image has a tag grows while the registry is away.
func TestTagsAreRememberedWhileTheRegistryIsAway(t *testing.T) {
	w := newWorld(t)
	p := w.policy(signedBy(v1alpha1.TrustAny, instanceKey))
	image := w.push("shop/cart:1", "cart")
	if found, err := w.decide.resolve(t.Context(), w.host+"/shop/cart:1", p); err != nil || found.DigestStr() != image.DigestStr() {
		t.Fatalf("got %s, %v", found, err)
	}
	if _, err := w.decide.resolve(t.Context(), w.host+"/shop/cart:2", p); err == nil || !strings.Contains(err.Error(), "gantry push") {
		t.Errorf("a tag that is not there: %v", err)
	}
	w.server.Close()
	if found, err := w.decide.from.resolve(t.Context(), w.host+"/shop/cart:1", 0); err != nil || found.DigestStr() != image.DigestStr() {
		t.Errorf("got %s, %v", found, err)
	}
	if _, err := w.decide.resolve(t.Context(), w.host+"/shop/cart:3", p); err == nil || !strings.Contains(err.Error(), "make its registry answer") {
		t.Errorf("a tag that nobody knows: %v", err)
	}
}

func TestPatterns(t *testing.T) {
	w := newWorld(t)
	p := w.policy(v1alpha1.TrustPolicySpec{Images: []string{"127.0.0.1:5000/shop/*", "docker.io/library/**"}, ExceptImages: []string{"127.0.0.1:5000/shop/old"}})
	for image, covered := range map[string]bool{
		"127.0.0.1:5000/shop/cart:1": true, "127.0.0.1:5000/shop/cart@sha256:" + strings.Repeat("a", 64): true, "nginx": true,
		"127.0.0.1:5000/shop/a/b": false, "127.0.0.1:5000/shop/old:2": false, "127x0.0.1:5000/shop/cart": false, "ghcr.io/x": false,
	} {
		if p.covers(image) != covered {
			t.Errorf("%s: covered %v, want %v", image, !covered, covered)
		}
	}
}
