package attest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The tests of this file hold the package against cosign, both ways. Those that run the real
// program need bin/cosign: `make conformance-cosign` builds it (version 3.1.3) and runs them.
// The others read what it wrote, recorded in testdata/cosign by
//
//	GANTRY_RECORD=1 go test -run TestCosignsClaimsVerify ./internal/attest

// offline are the flags with which cosign signs and verifies without a network.
var (
	offlineSign   = []string{"-y", "--use-signing-config=false", "--tlog-upload=false"}
	offlineVerify = []string{"--insecure-ignore-tlog=true", "--private-infrastructure=true"}
)

// cosignProgram finds the real cosign or skips the test.
func cosignProgram(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/cosign")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("GANTRY_COSIGN") == "required" {
			t.Fatal(err)
		}
		t.Skip("bin/cosign is not built: make conformance-cosign builds it and runs this test")
	}
	return path
}

// cosign runs the real program in dir, where keys lie, without any of the user's settings.
func cosign(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	return cosignWith(t, dir, "secret", args...)
}

func cosignWith(t *testing.T, dir, password string, args ...string) (string, error) {
	t.Helper()
	c := exec.Command(cosignProgram(t), args...)
	c.Dir = dir
	c.Env = []string{"COSIGN_PASSWORD=" + password, "HOME=" + dir, "PATH=" + os.Getenv("PATH"), "NO_PROXY=*"}
	out, err := c.CombinedOutput()
	return string(out), err
}

func mustCosign(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := cosign(t, dir, args...)
	if err != nil {
		t.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// layoutFlag makes cosign write a layout.
func layoutFlag(l Layout) string {
	if l == Tag {
		return "--new-bundle-format=false"
	}
	return "--new-bundle-format=true"
}

// vulnPredicate is a scan result that cosign accepts and writes back as it is.
const vulnPredicate = `{"invocation":{"parameters":null,"uri":"","event_id":"","builder.id":""},` +
	`"scanner":{"uri":"gantry","version":"1","db":{"uri":"","version":""},"result":{"critical":2}},` +
	`"metadata":{"scanStartedOn":"2026-01-02T03:04:05Z","scanFinishedOn":"2026-01-02T03:04:05Z"}}`

func TestCosignAcceptsOurs(t *testing.T) {
	dir := t.TempDir()
	private, public, err := GenerateKey([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cosign.key"), private)
	write(t, filepath.Join(dir, "cosign.pub"), public)
	_, other, err := GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "other.pub"), other)
	key, err := ParsePrivateKey(private, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if out := mustCosign(t, dir, "public-key", "--key", "cosign.key"); !strings.Contains(out, string(public)) {
		t.Errorf("cosign reads our private key as %s, not as %s", out, public)
	}
	for _, referrers := range []bool{true, false} {
		for _, layout := range []Layout{Referrer, Tag} {
			image := newRegistry(t, referrers)
			if err := Sign(t.Context(), image, key, layout); err != nil {
				t.Fatal(err)
			}
			var predicate map[string]any
			if err := json.Unmarshal([]byte(vulnPredicate), &predicate); err != nil {
				t.Fatal(err)
			}
			if err := Attach(t.Context(), image, VulnerabilityPredicate, predicate, key, layout); err != nil {
				t.Fatal(err)
			}
			verify := append([]string{"verify"}, offlineVerify...)
			mustCosign(t, dir, append(verify, "--key", "cosign.pub", image.String())...)
			mustCosign(t, dir, append(append([]string{"verify-attestation"}, offlineVerify...), "--type", "vuln", "--key", "cosign.pub", image.String())...)
			if out, err := cosign(t, dir, append(verify, "--key", "other.pub", image.String())...); err == nil {
				t.Errorf("%s: cosign accepts it with another key: %s", layout, out)
			}
			evil := pushImage(t, image.Context().Tag("evil").String(), "evil")
			if layout == Referrer {
				copyClaims(t, image, evil, func(b []byte) []byte { return b })
			} else {
				moved, err := remote.Image(claimTag(image, "sig"))
				if err != nil {
					t.Fatal(err)
				}
				if err := remote.Write(claimTag(evil, "sig"), moved); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := cosign(t, dir, append(verify, "--key", "cosign.pub", evil.String())...); err == nil {
				t.Errorf("%s: cosign accepts our signature on another image: %s", layout, out)
			}
		}
	}
}

func TestWeAcceptCosigns(t *testing.T) {
	dir := t.TempDir()
	mustCosign(t, dir, "generate-key-pair")
	public, key := readKeys(t, dir)
	other := newKey(t)
	for _, referrers := range []bool{true, false} {
		for _, layout := range []Layout{Referrer, Tag} {
			image := newRegistry(t, referrers)
			cosignImage(t, dir, image, layout)
			checkClaims(t, image, layout, public)
			if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{other.Public}); err == nil {
				t.Errorf("%s: verifies with another key", layout)
			}
			// Both sign the same image, and both stay.
			if err := Sign(t.Context(), image, key, layout); err != nil {
				t.Fatal(err)
			}
			mustCosign(t, dir, append(append([]string{"verify"}, offlineVerify...), "--key", "cosign.pub", image.String())...)
			if claims, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{public}); err != nil || len(claims) != 2 {
				t.Errorf("%s: %d signatures, %v", layout, len(claims), err)
			}
		}
	}
}

// cosignImage has cosign sign an image and attest a scan result.
func cosignImage(t *testing.T, dir string, image name.Digest, layout Layout) {
	t.Helper()
	write(t, filepath.Join(dir, "vuln.json"), []byte(vulnPredicate))
	mustCosign(t, dir, append(append([]string{"sign"}, offlineSign...), layoutFlag(layout), "--key", "cosign.key", image.String())...)
	mustCosign(t, dir, append(append([]string{"attest"}, offlineSign...), layoutFlag(layout), "--key", "cosign.key", "--type", "vuln", "--predicate", "vuln.json", image.String())...)
}

// checkClaims verifies what cosignImage attached.
func checkClaims(t *testing.T, image name.Digest, layout Layout, public *PublicKey) {
	t.Helper()
	if claims, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{public}); err != nil || len(claims) != 1 || claims[0].Layout != layout {
		t.Errorf("%s: signature: %+v, %v", layout, claims, err)
	}
	claims, err := Verify(t.Context(), image, VulnerabilityPredicate, []*PublicKey{public})
	if err != nil || len(claims) != 1 {
		t.Fatalf("%s: attestation: %+v, %v", layout, claims, err)
	}
	var result struct {
		Scanner struct {
			Result struct{ Critical int }
		}
	}
	if err := json.Unmarshal(claims[0].Predicate, &result); err != nil || result.Scanner.Result.Critical != 2 {
		t.Errorf("%s: the predicate is %s", layout, claims[0].Predicate)
	}
}

func readKeys(t *testing.T, dir string) (*PublicKey, *Signer) {
	t.Helper()
	ring := Keyring{Password: func(string) ([]byte, error) { return []byte("secret"), nil }}
	public, err := ring.PublicKey(t.Context(), filepath.Join(dir, "cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := ring.Signer(t.Context(), filepath.Join(dir, "cosign.key"))
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// recording is what a registry held after cosign wrote to it.
type recording struct {
	Image     string
	Manifests map[string]string // reference to content
	Blobs     map[string]string // media type and content, by digest
}

func TestCosignsClaimsVerify(t *testing.T) {
	dir := "testdata/cosign"
	if os.Getenv("GANTRY_RECORD") != "" {
		record(t, dir)
	}
	public, private := readKeys(t, dir)
	if public.ID != private.Public.ID {
		t.Errorf("cosign's key pair is read as two keys: %s, %s", public.ID, private.Public.ID)
	}
	for _, layout := range []Layout{Referrer, Tag} {
		image := replay(t, filepath.Join(dir, string(layout)+".json"), nil)
		checkClaims(t, image, layout, public)
		if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{newKey(t).Public}); err == nil {
			t.Errorf("%s: verifies with another key", layout)
		}
		// A registry that changes what it holds, and names the result by its new digest.
		changed := replay(t, filepath.Join(dir, string(layout)+".json"), func(r *recording) {
			for digest, content := range r.Blobs {
				r.Blobs[digest] = strings.NewReplacer("cosign container image signature", "cosign container image signaturf", `"payload":"e`, `"payload":"f`).Replace(content)
			}
		})
		if claims, err := Verify(t.Context(), changed, SignPredicate, []*PublicKey{public}); err == nil {
			t.Errorf("%s: what was changed verifies: %+v", layout, claims)
		}
	}
}

// record makes the recordings with the real cosign.
func record(t *testing.T, to string) {
	dir := t.TempDir()
	mustCosign(t, dir, "generate-key-pair")
	for _, f := range []string{"cosign.key", "cosign.pub"} {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, f), text)
	}
	for _, layout := range []Layout{Referrer, Tag} {
		image := newRegistry(t, true)
		cosignImage(t, dir, image, layout)
		r := recording{Image: image.DigestStr(), Manifests: map[string]string{}, Blobs: map[string]string{}}
		refs := []name.Reference{image}
		if layout == Tag {
			refs = append(refs, claimTag(image, "sig"), claimTag(image, "att"))
		} else {
			index, err := remote.Referrers(image)
			if err != nil {
				t.Fatal(err)
			}
			list, err := index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list.Manifests {
				refs = append(refs, image.Context().Digest(d.Digest.String()))
			}
		}
		for _, ref := range refs {
			d, err := remote.Get(ref)
			if err != nil {
				t.Fatal(err)
			}
			r.Manifests[ref.Identifier()] = string(d.Manifest)
			for _, b := range blobsOf(t, d.Manifest) {
				text, err := newFetcher(image).blob(b)
				if err != nil {
					t.Fatal(err)
				}
				r.Blobs[b.Digest.String()] = string(text)
			}
		}
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, string(layout)+".json"), append(text, '\n'))
	}
}

func blobsOf(t *testing.T, manifest []byte) []v1.Descriptor {
	t.Helper()
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return append(m.Layers, m.Config)
}

// replay pushes a recording to a registry. What edit changes keeps its place: manifests then name
// the changed blobs.
func replay(t *testing.T, file string, edit func(*recording)) name.Digest {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r recording
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&r)
	}
	image := newRegistry(t, true)
	if image.DigestStr() != r.Image {
		t.Fatalf("the test's image is no longer the one that was signed: record again")
	}
	for was, content := range r.Blobs {
		layer := static.NewLayer([]byte(content), types.OCILayer)
		if err := remote.WriteLayer(image.Context(), layer); err != nil {
			t.Fatal(err)
		}
		now, _ := layer.Digest() // static layers do not fail
		for ref, m := range r.Manifests {
			if ref != r.Image {
				r.Manifests[ref] = strings.ReplaceAll(m, was, now.String())
			}
		}
	}
	for ref, content := range r.Manifests {
		if ref == r.Image {
			continue
		}
		digest, _, err := v1.SHA256(strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var to name.Reference = image.Context().Digest(digest.String())
		if !strings.HasPrefix(ref, "sha256:") {
			to = image.Context().Tag(ref)
		}
		if err := remote.Put(to, rawManifest(content)); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

type rawManifest string

func (m rawManifest) RawManifest() ([]byte, error)        { return []byte(m), nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
