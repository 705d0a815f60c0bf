package attest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/gantryhq/gantry/internal/hint"
)

// newRegistry starts a registry in memory, with the referrers API or without, and pushes
// an image. The image is the same in every run.
func newRegistry(t *testing.T, referrers bool) name.Digest {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return pushImage(t, strings.TrimPrefix(server.URL, "http://")+"/shop/cart:1", "cart")
}

func pushImage(t *testing.T, ref, content string) name.Digest {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(content))}), func() error { _, err := w.Write([]byte(content)); return err }(), w.Close()); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return tag.Context().Digest(digest.String())
}

func newKey(t *testing.T) *Signer {
	t.Helper()
	private, _, err := generateKey([]byte("secret"), encrypted.Legacy) // the quickest
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(private, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignatureVerifies(t *testing.T) {
	key, other := newKey(t), newKey(t)
	for _, referrers := range []bool{true, false} {
		for _, layout := range []Layout{Referrer, Tag} {
			image := newRegistry(t, referrers)
			if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{key.Public}); err == nil || !strings.Contains(err.Error(), "it has no signature") {
				t.Errorf("an unsigned image: %v", err)
			}
			if err := Sign(t.Context(), image, key, layout); err != nil {
				t.Fatal(err)
			}
			claims, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{other.Public, key.Public})
			if err != nil || len(claims) != 1 || claims[0].Key.ID != key.Public.ID || claims[0].Layout != layout {
				t.Errorf("%s, referrers API %v: got %+v, %v", layout, referrers, claims, err)
			}
			if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{other.Public}); err == nil || !strings.Contains(err.Error(), "not by an accepted key") {
				t.Errorf("signed by another key: %v", err)
			}
		}
	}
}

func TestTwoSignaturesStayApart(t *testing.T) {
	for _, layout := range []Layout{Referrer, Tag} {
		image, first, second := newRegistry(t, true), newKey(t), newKey(t)
		for _, k := range []*Signer{first, second} {
			if err := Sign(t.Context(), image, k, layout); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range []*Signer{first, second} {
			if claims, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{k.Public}); err != nil || len(claims) != 1 {
				t.Errorf("%s: %d claims, %v", layout, len(claims), err)
			}
		}
	}
}

func TestAttestationsOfATypeAreFound(t *testing.T) {
	key := newKey(t)
	for _, layout := range []Layout{Referrer, Tag} {
		image := newRegistry(t, true)
		if err := Attach(t.Context(), image, SPDXPredicate, map[string]any{"spdxVersion": "SPDX-2.3"}, key, layout); err != nil {
			t.Fatal(err)
		}
		if err := Attach(t.Context(), image, VulnerabilityPredicate, map[string]any{"number": 9007199254740993}, key, layout); err != nil {
			t.Fatal(err)
		}
		claims, err := Verify(t.Context(), image, VulnerabilityPredicate, []*PublicKey{key.Public})
		if err != nil || len(claims) != 1 || string(claims[0].Predicate) != `{"number":9007199254740993}` {
			t.Errorf("%s: got %+v, %v", layout, claims, err)
		}
		all, err := Fetch(t.Context(), image, nil)
		if err != nil || len(all.Claims) != 2 || len(all.Rejected) != 0 {
			t.Errorf("%s: got %+v, %v", layout, all, err)
		}
		// An attestation vouches for what it says, not for the image.
		if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{key.Public}); err == nil {
			t.Errorf("%s: an attestation passed for a signature", layout)
		}
	}
	if err := Attach(t.Context(), newRegistry(t, true), SPDXPredicate, []int{1}, key, Referrer); err == nil {
		t.Error("a predicate that is no object was attached")
	}
}

// copyClaims attaches what is attached to one image to another one, changed by edit.
func copyClaims(t *testing.T, from, to name.Digest, edit func([]byte) []byte) {
	t.Helper()
	index, err := remote.Referrers(from)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Manifests {
		text, err := newFetcher(from).bundle(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeReferrer(to, SignPredicate, edit(text), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatWasChangedIsRefused(t *testing.T) {
	key := newKey(t)
	keep := func(text []byte) []byte { return text }
	signed := func(t *testing.T) name.Digest {
		image := newRegistry(t, true)
		if err := Sign(t.Context(), image, key, Referrer); err != nil {
			t.Fatal(err)
		}
		return image
	}
	inBundle := func(edit func(envelope map[string]any)) func([]byte) []byte {
		return func(text []byte) []byte {
			var bundle map[string]any
			if err := json.Unmarshal(text, &bundle); err != nil {
				t.Fatal(err)
			}
			edit(bundle["dsseEnvelope"].(map[string]any))
			text, err := json.Marshal(bundle)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
	for what, attack := range map[string]func(t *testing.T) name.Digest{
		"another manifest": func(t *testing.T) name.Digest {
			image := signed(t)
			other := pushImage(t, image.Context().Tag("evil").String(), "evil")
			copyClaims(t, image, other, keep)
			return other
		},
		"statement about another image": func(t *testing.T) name.Digest {
			image := signed(t)
			other := pushImage(t, image.Context().Tag("evil").String(), "evil")
			copyClaims(t, image, other, inBundle(func(e map[string]any) {
				text, _ := base64.StdEncoding.DecodeString(e["payload"].(string))
				e["payload"] = base64.StdEncoding.EncodeToString(bytes.ReplaceAll(text,
					[]byte(strings.TrimPrefix(image.DigestStr(), "sha256:")), []byte(strings.TrimPrefix(other.DigestStr(), "sha256:"))))
			}))
			return other
		},
		"signature": func(t *testing.T) name.Digest {
			image := signed(t)
			other := pushImage(t, image.Context().Registry.Name()+"/copy:1", "cart") // the same image elsewhere
			copyClaims(t, image, other, inBundle(func(e map[string]any) {
				s := e["signatures"].([]any)[0].(map[string]any)
				sig, _ := base64.StdEncoding.DecodeString(s["sig"].(string))
				sig[len(sig)-1] ^= 1
				s["sig"] = base64.StdEncoding.EncodeToString(sig)
			}))
			return other
		},
		"type of the payload": func(t *testing.T) name.Digest {
			image := signed(t)
			other := pushImage(t, image.Context().Registry.Name()+"/copy:1", "cart")
			copyClaims(t, image, other, inBundle(func(e map[string]any) { e["payloadType"] = "text/plain" }))
			return other
		},
		"garbage": func(t *testing.T) name.Digest {
			image := newRegistry(t, true)
			if err := writeReferrer(image, SignPredicate, []byte("{"), nil); err != nil {
				t.Fatal(err)
			}
			return image
		},
	} {
		t.Run(what, func(t *testing.T) {
			var refused *UnverifiedError
			if claims, err := Verify(t.Context(), attack(t), SignPredicate, []*PublicKey{key.Public}); !errors.As(err, &refused) {
				t.Errorf("got %d claims, %v", len(claims), err)
			}
		})
	}
	t.Run("the same image elsewhere stays signed", func(t *testing.T) {
		image := signed(t)
		other := pushImage(t, image.Context().Registry.Name()+"/copy:1", "cart")
		copyClaims(t, image, other, keep)
		if _, err := Verify(t.Context(), other, SignPredicate, []*PublicKey{key.Public}); err != nil {
			t.Error(err)
		}
	})
}

func TestARegistryThatDoesNotAnswerIsNoVerdict(t *testing.T) {
	image := newRegistry(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var refused *UnverifiedError
	if _, err := Verify(ctx, image, SignPredicate, nil); err == nil || errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

func TestWrongPasswordAndWrongKeys(t *testing.T) {
	private, public, err := GenerateKey([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivateKey(private, []byte("guess")); !errors.Is(err, ErrPassword) || strings.Contains(err.Error(), "guess") {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := ParsePrivateKey(public, nil); err == nil || hint.Of(err) == "" {
		t.Errorf("a public key as private key: %v", err)
	}
	if _, err := ParsePublicKey([]byte("nonsense")); err == nil || hint.Of(err) == "" {
		t.Errorf("nonsense as public key: %v", err)
	}
	key, err := ParsePrivateKey(private, []byte("secret"))
	if err != nil || string(key.Public.PEM) != string(public) {
		t.Errorf("got %v, the public key is %s", err, public)
	}
}

// liar answers as a registry does, but changes what it serves under an unchanged digest.
type liar struct {
	http.Handler
	lie func(path string, body []byte) []byte
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	l.Handler.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	if l.lie != nil && r.Method == http.MethodGet {
		body = l.lie(r.URL.Path, body)
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

// A registry that serves something else under the digest of a signature convinces nobody.
func TestALyingRegistryIsRefused(t *testing.T) {
	key := newKey(t)
	for _, layout := range []Layout{Referrer, Tag} {
		l := &liar{Handler: registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))}
		server := httptest.NewServer(l)
		t.Cleanup(server.Close)
		image := pushImage(t, strings.TrimPrefix(server.URL, "http://")+"/shop/cart:1", "cart")
		if err := Sign(t.Context(), image, key, layout); err != nil {
			t.Fatal(err)
		}
		changed := func(where string) func(string, []byte) []byte {
			return func(path string, body []byte) []byte {
				if !strings.Contains(path, where) || len(body) < 3 {
					return body
				}
				body = bytes.Clone(body)
				body[len(body)/2] ^= 1
				return body
			}
		}
		// Lists of referrers and what a tag names are signed by nobody: they can hide claims, not make any.
		lies := []string{"/blobs/"}
		if layout == Referrer {
			lies = append(lies, "/manifests/")
		}
		for _, where := range lies {
			l.lie = changed(where)
			if claims, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{key.Public}); err == nil {
				t.Errorf("%s: with other %s: %d claims", layout, where, len(claims))
			}
		}
		l.lie = nil
		if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{key.Public}); err != nil {
			t.Errorf("%s: an honest registry: %v", layout, err)
		}
	}
}

// Whoever may push to a repository may attach anything to its images: reading it stays bounded,
// and the claims that count are found all the same.
func TestWhatIsAttachedIsBounded(t *testing.T) {
	key, image := newKey(t), newRegistry(t, true)
	if err := Sign(t.Context(), image, key, Referrer); err != nil {
		t.Fatal(err)
	}
	f := newFetcher(image)
	f.left.Store(10)
	var e Evidence
	if err := f.referrers(&e); err != nil || len(e.Claims) != 0 || len(e.Rejected) != 1 || !strings.Contains(e.Rejected[0].Error(), "are attached to the image") {
		t.Errorf("got %+v, %v", e, err)
	}
	for range 3 {
		if err := Attach(t.Context(), image, SPDXPredicate, map[string]any{"filler": strings.Repeat("x", 1<<20)}, key, Referrer); err != nil {
			t.Fatal(err)
		}
	}
	f = newFetcher(image)
	f.wanted = []string{SignPredicate}
	f.left.Store(10 << 10) // the fillers are of another type, and are not read
	e = Evidence{Image: image}
	if err := f.referrers(&e); err != nil {
		t.Fatal(err)
	}
	if claims, err := e.Verified(SignPredicate, key.Public); err != nil || len(claims) != 1 {
		t.Errorf("got %d claims, %v", len(claims), err)
	}
}
