package image

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// slowStore is a database with one image, whose answers can be held up.
type slowStore struct {
	images.Store
	target  digest.Digest
	reads   int
	reading func() // called with what was read in hand
}

func (s *slowStore) Get(context.Context, string) (images.Image, error) {
	img := images.Image{Name: "app"}
	img.Target.Digest = s.target
	s.reads++
	if s.target == "" {
		return images.Image{}, errdefs.ErrNotFound
	}
	if s.reading != nil {
		s.reading()
	}
	return img, nil
}

func (s *slowStore) Update(_ context.Context, img images.Image, _ ...string) (images.Image, error) {
	s.target = img.Target.Digest
	return img, nil
}

func (s *slowStore) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return s.Update(ctx, img)
}

func (s *slowStore) Delete(context.Context, string, ...images.DeleteOpt) error {
	s.target = ""
	return nil
}

// TestRecords shows that a record is read once, and again after it was written, whenever that was.
func TestRecords(t *testing.T) {
	ctx := t.Context()
	db := &slowStore{}
	r := newRecords(db)
	named := func(d digest.Digest) images.Image {
		img := images.Image{Name: "app"}
		img.Target.Digest = d
		return img
	}
	expect := func(want digest.Digest) {
		t.Helper()
		img, err := r.Get(ctx, "app")
		if want == "" && errdefs.IsNotFound(err) {
			return
		}
		if err != nil || img.Target.Digest != want {
			t.Errorf("the image is %q (%v), want %q", img.Target.Digest, err, want)
		}
	}
	expect("")
	write := func(_ images.Image, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(r.Create(ctx, named("one")))
	expect("one")
	before := db.reads
	expect("one")
	if db.reads != before {
		t.Error("what is known was read again")
	}
	write(r.Update(ctx, named("two"), "target"))
	db.reading = func() { // it is written after it was read and before that is remembered
		db.reading = nil
		write(r.Update(ctx, named("three"), "target"))
	}
	expect("two")
	expect("three")
	if err := r.Delete(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	expect("")
}
