package storage

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A directory as distribution v3 leaves it: with histories of tags, states of hashes, and no
// lists of referrers.
func TestADirectoryOfDistributionIsReadAsItIs(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "docker/registry/v2")
	put := func(path, content string) {
		t.Helper()
		path = filepath.Join(root, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	blob := func(content string) digest.Digest {
		d := digest.FromString(content)
		put("blobs/sha256/"+d.Encoded()[:2]+"/"+d.Encoded()+"/data", content)
		return d
	}
	repo := "repositories/shop/cart/"
	config := blob("{}")
	put(repo+"_layers/sha256/"+config.Encoded()+"/link", config.String())
	image := `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":2,"digest":"` + config.String() + `"},"layers":[]}`
	d := blob(image)
	put(repo+"_manifests/revisions/sha256/"+d.Encoded()+"/link", d.String())
	put(repo+"_manifests/tags/1/current/link", d.String())
	put(repo+"_manifests/tags/1/index/sha256/"+d.Encoded()+"/link", d.String())
	signature := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/x.sig","size":2,"digest":"` + config.String() + `"},"layers":[],"subject":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","size":1,"digest":"` + d.String() + `"}}`
	sig := blob(signature)
	put(repo+"_manifests/revisions/sha256/"+sig.Encoded()+"/link", sig.String())
	put(repo+"_uploads/6c4d5a70-0000-4000-8000-000000000000/data", "half")
	put(repo+"_uploads/6c4d5a70-0000-4000-8000-000000000000/startedat", "2025-01-01T00:00:00Z")
	put(repo+"_uploads/6c4d5a70-0000-4000-8000-000000000000/hashstates/sha256/4", "state")

	s, err := Open(dir, nil)
	must(t, err)
	got, err := s.Tag("shop/cart", "1")
	if err != nil || got != d {
		t.Fatalf("tag %v, %v", got, err)
	}
	raw, mediaType, err := s.ReadManifest("shop/cart", d)
	if err != nil || string(raw) != image || mediaType != DockerManifest {
		t.Errorf("manifest %s %s, %v", mediaType, raw, err)
	}
	referrers, err := s.Referrers("shop/cart", d)
	if err != nil || len(referrers) != 1 || referrers[0].Digest != sig || referrers[0].ArtifactType != "application/x.sig" {
		t.Errorf("referrers %+v, %v", referrers, err)
	}
	u, err := s.Upload("shop/cart", "6c4d5a70-0000-4000-8000-000000000000")
	must(t, err)
	must(t, u.Commit(digest.FromString("half")))
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(s.local.at(revisionLink("shop/cart", sig)), past, past))
	if _, err := s.Collect(t.Context(), CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest("shop/cart", sig); err != nil {
		t.Errorf("a signature did not stay with its image: %v", err)
	}
	must(t, s.DeleteManifest("shop/cart", d, nil))
	done, err := s.Collect(t.Context(), CollectOptions{})
	if err != nil || done.Manifests != 1 || done.Blobs != 3 {
		t.Errorf("after the image was deleted: %+v, %v", done, err)
	}
	if _, err := s.Manifest("shop/cart", sig); !errors.Is(err, ErrManifestUnknown) {
		t.Errorf("a signature outlives its image: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "repositories")); err != nil || len(left) > 0 {
		t.Errorf("directories are left of nothing: %v, %v", left, err)
	}
}

func TestAnUploadGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, nil)
	must(t, err)
	u, err := s.NewUpload("a", digest.SHA256)
	must(t, err)
	must(t, u.Append(reader("begun "), 0, -1))
	s, err = Open(dir, nil)
	must(t, err)
	u, err = s.Upload("a", u.ID)
	must(t, err)
	must(t, u.Append(reader("and ended"), 6, -1))
	must(t, u.Commit(digest.FromString("begun and ended")))
	if here, err := s.HasBlob("a", digest.FromString("begun and ended")); !here {
		t.Error("the blob is not there", err)
	}
}

func TestUploadsThatNobodyUsesEnd(t *testing.T) {
	s, err := Open(t.TempDir(), nil)
	must(t, err)
	old, err := s.NewUpload("a", digest.SHA256)
	must(t, err)
	young, err := s.NewUpload("a", digest.SHA256)
	must(t, err)
	old.used.Store(time.Now().Add(-2 * time.Hour).UnixNano())
	must(t, s.ExpireUploads(time.Hour))
	if _, err := s.Upload("a", old.ID); !errors.Is(err, ErrUploadUnknown) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := s.Upload("a", young.ID); err != nil {
		t.Errorf("the young one: %v", err)
	}
	past := time.Now().Add(-2 * time.Hour) // of a former process
	delete(s.uploads, young.ID)
	must(t, os.Chtimes(young.path(), past, past))
	must(t, os.Chtimes(young.dir(), past, past))
	must(t, s.ExpireUploads(time.Hour))
	if _, err := os.Stat(young.dir()); err == nil {
		t.Error("an upload of a former process stays for ever")
	}
}

// A collection may find a blob unneeded just before a manifest needs it.
func TestABlobThatIsLinkedDuringACollectionStays(t *testing.T) {
	s, err := Open(t.TempDir(), nil)
	must(t, err)
	u, err := s.NewUpload("a", digest.SHA256)
	must(t, err)
	d := digest.FromString("shared")
	must(t, u.Append(reader("shared"), 0, -1))
	must(t, u.Commit(d))
	s.setSpared(map[digest.Digest]struct{}{})
	c := collection{s: s, linked: map[digest.Digest]struct{}{}} // as if it had looked before
	must(t, s.Mount("a", "b", d))
	must(t, c.remove([]unlinkedBlob{{d, 6}}))
	here := func() bool {
		here, err := s.HasBlob("b", d)
		must(t, err)
		return here
	}
	if !here() {
		t.Error("the blob is gone")
	}
	s.setSpared(map[digest.Digest]struct{}{})
	release := s.pin(d) // by a push that is about to link it
	must(t, c.remove([]unlinkedBlob{{d, 6}}))
	if !here() {
		t.Error("a blob is gone that was about to be linked")
	}
	release()
	must(t, c.remove([]unlinkedBlob{{d, 6}})) // nobody has linked it since
	if here() {
		t.Error("nothing was removed, so the test shows nothing")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func reader(text string) io.Reader { return strings.NewReader(text) }
