package attest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"golang.org/x/sync/errgroup"
)

const (
	maxClaims     = 1000      // attached to one image; as cosign
	maxClaimBytes = 64 << 20  // of one bundle or envelope
	maxFetched    = 128 << 20 // of all that Fetch reads: whoever may push to a repository may attach anything
	// The annotations that cosign gives a bundle's manifest and the layers of the older layout.
	predicateAnnotation = "dev.sigstore.bundle.predicateType"
	contentAnnotation   = "dev.sigstore.bundle.content"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	tagPredicate        = "predicateType"
)

// Options is how registries are reached when the caller of a function does not say: with
// the logins of the user's docker configuration.
func Options(ctx context.Context, opts []remote.Option) []remote.Option {
	if len(opts) == 0 {
		opts = []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	}
	return append(slices.Clip(opts), remote.WithContext(ctx))
}

// Resolve returns the digest that a name stands for now. It is a HEAD request; one by
// digest is made too, to see that the image is there.
func Resolve(ctx context.Context, image string, opts ...remote.Option) (name.Digest, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return name.Digest{}, fmt.Errorf("image %q: %w", image, err)
	}
	d, err := remote.Head(ref, Options(ctx, opts)...)
	if err != nil {
		return name.Digest{}, fmt.Errorf("look for image %s: %w", image, err)
	}
	return ref.Context().Digest(d.Digest.String()), nil
}

// Sign attaches the signature of an image. It does not look whether there is one already.
func Sign(ctx context.Context, image name.Digest, key *Signer, layout Layout, opts ...remote.Option) error {
	var err error
	if layout == Tag {
		err = signTag(ctx, image, key, Options(ctx, opts))
	} else {
		err = attach(ctx, image, SignPredicate, struct{}{}, key, layout, opts)
	}
	if err != nil {
		return fmt.Errorf("sign image %s: %w", image, err)
	}
	return nil
}

// Attach signs a predicate, which must encode to a JSON object, and attaches it to an image.
func Attach(ctx context.Context, image name.Digest, predicateType string, predicate any, key *Signer, layout Layout, opts ...remote.Option) error {
	if err := attach(ctx, image, predicateType, predicate, key, layout, opts); err != nil {
		return fmt.Errorf("attach %s to image %s: %w", predicateType, image, err)
	}
	return nil
}

func attach(ctx context.Context, image name.Digest, predicateType string, predicate any, key *Signer, layout Layout, opts []remote.Option) error {
	text, err := newStatement(image, predicateType, predicate)
	if err != nil {
		return err
	}
	if layout == Tag {
		envelope, err := signEnvelope(ctx, text, key)
		if err != nil {
			return err
		}
		return appendToTag(claimTag(image, "att"), static.NewLayer(envelope, dsseMediaType), map[string]string{
			tagPredicate: predicateType, signatureAnnotation: "",
		}, Options(ctx, opts))
	}
	bundle, err := signBundle(ctx, text, key)
	if err != nil {
		return err
	}
	return writeReferrer(image, predicateType, bundle, Options(ctx, opts))
}

// artifact is an OCI manifest with an artifact type, which go-containerregistry's has not.
type artifact struct {
	v1.Manifest
	ArtifactType string `json:"artifactType"`
}

// RawManifest implements remote.Taggable.
func (a artifact) RawManifest() ([]byte, error) { return json.Marshal(a) }

// MediaType implements partial.WithMediaType.
func (a artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// writeReferrer pushes a bundle that refers to the image, with the manifest that cosign gives it.
func writeReferrer(image name.Digest, predicateType string, bundle []byte, opts []remote.Option) error {
	pusher, err := remote.NewPusher(opts...)
	if err != nil {
		return err
	}
	opts = append(opts, remote.Reuse(pusher))
	about, err := remote.Head(image, opts...)
	if err != nil {
		return fmt.Errorf("look for it: %w", err)
	}
	layer, config := static.NewLayer(bundle, bundleMediaType), static.NewLayer([]byte("{}"), "application/vnd.oci.empty.v1+json")
	var blobs []v1.Descriptor
	for _, l := range []v1.Layer{config, layer} {
		if err := remote.WriteLayer(image.Context(), l, opts...); err != nil {
			return fmt.Errorf("push it: %w", err)
		}
		digest, _ := l.Digest() // static layers do not fail
		size, _ := l.Size()
		mediaType, _ := l.MediaType()
		blobs = append(blobs, v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size})
	}
	m := artifact{ArtifactType: bundleMediaType, Manifest: v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: blobs[0], Layers: blobs[1:],
		Subject: &v1.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size},
		Annotations: map[string]string{
			"org.opencontainers.image.created": time.Now().UTC().Format(time.RFC3339),
			contentAnnotation:                  "dsse-envelope", predicateAnnotation: predicateType,
		},
	}}
	raw, err := m.RawManifest()
	if err != nil {
		return err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if err := remote.Put(image.Context().Digest(digest.String()), m, opts...); err != nil {
		return fmt.Errorf("push it: %w", err)
	}
	return nil
}

// claimTag is where the older layout keeps signatures ("sig") or attestations ("att").
func claimTag(image name.Digest, suffix string) name.Tag {
	return image.Context().Tag(strings.Replace(image.DigestStr(), ":", "-", 1) + "." + suffix)
}

var claimTags = regexp.MustCompile(`^sha(256|512)-[0-9a-f]{64,128}(\.(sig|att|sbom))?$`)

// IsClaimTag is whether a tag of a repository names what is attached to an image: in the older
// layout, or the list of referrers in registries that have no API for it.
func IsClaimTag(tag string) bool { return claimTags.MatchString(tag) }

func signTag(ctx context.Context, image name.Digest, key *Signer, opts []remote.Option) error {
	text, err := payload.Cosign{Image: image}.MarshalJSON()
	if err != nil {
		return err
	}
	sig, err := key.sign(ctx, text)
	if err != nil {
		return err
	}
	return appendToTag(claimTag(image, "sig"), static.NewLayer(text, simpleSigning),
		map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sig)}, opts)
}

// appendToTag adds a layer to an image of the older layout. Of two who do it at the same
// time one may lose, as with cosign.
func appendToTag(tag name.Tag, layer v1.Layer, annotations map[string]string, opts []remote.Option) error {
	base, err := remote.Image(tag, opts...)
	if notFound(err) {
		base = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	} else if err != nil {
		return fmt.Errorf("read what is attached: %w", err)
	}
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, Annotations: annotations})
	if err != nil {
		return err
	}
	if err := remote.Write(tag, image, opts...); err != nil {
		return fmt.Errorf("push it: %w", err)
	}
	return nil
}

// Fetch reads the claims of the given predicate types that are attached to an image, in
// either layout; without types it reads all. What is attached and cannot be read is
// reported as rejected; an error means that the registry did not answer.
func Fetch(ctx context.Context, image name.Digest, predicateTypes []string, opts ...remote.Option) (*Evidence, error) {
	puller, err := remote.NewPuller(Options(ctx, opts)...)
	if err != nil {
		return nil, fmt.Errorf("read what is attached to %s: %w", image, err)
	}
	f := newFetcher(image)
	f.wanted, f.opts = predicateTypes, append(Options(ctx, opts), remote.Reuse(puller))
	// The answers of three requests, kept apart so that their order does not depend on time.
	var parts [3]Evidence
	reading, _ := errgroup.WithContext(ctx)
	reading.Go(func() error { return f.referrers(&parts[0]) })
	reading.Go(func() error { return f.tag("sig", &parts[1]) })
	reading.Go(func() error { return f.tag("att", &parts[2]) })
	if err := reading.Wait(); err != nil {
		return nil, fmt.Errorf("read what is attached to %s: %w", image, err)
	}
	all := &Evidence{Image: image}
	for _, p := range parts {
		all.Claims = append(all.Claims, p.Claims...)
		all.Rejected = append(all.Rejected, p.Rejected...)
	}
	return all, nil
}

type fetcher struct {
	image  name.Digest
	wanted []string // predicate types, or none for all
	opts   []remote.Option
	left   *atomic.Int64 // bytes that may be read still
}

func newFetcher(image name.Digest) fetcher {
	f := fetcher{image: image, left: new(atomic.Int64)}
	f.left.Store(maxFetched)
	return f
}

func (f fetcher) wants(predicateType string) bool {
	return len(f.wanted) == 0 || slices.Contains(f.wanted, predicateType)
}

// add takes up a claim that was read, or why it could not be.
func (f fetcher) add(to *Evidence, c *Claim, err error, layout Layout, digest string) {
	switch {
	case err != nil:
		to.Rejected = append(to.Rejected, fmt.Errorf("%.19s cannot be used: %w", digest, err))
	case f.wants(c.PredicateType):
		c.Layout, c.Digest = layout, digest
		to.Claims = append(to.Claims, c)
	}
}

// referrers reads the bundles that refer to the image.
func (f fetcher) referrers(to *Evidence) error {
	index, err := remote.Referrers(f.image, f.opts...)
	if err != nil {
		return err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for i, d := range list.Manifests {
		if i == maxClaims {
			to.Rejected = append(to.Rejected, fmt.Errorf("more than %d are attached: the rest was not read", maxClaims))
			break
		}
		// Registries without the referrers API name the type of the config instead, which says nothing.
		if d.ArtifactType != "" && !strings.HasPrefix(d.ArtifactType, bundlePrefix) && d.ArtifactType != "application/vnd.oci.empty.v1+json" {
			continue
		}
		if t, ok := d.Annotations[predicateAnnotation]; ok && !f.wants(t) {
			continue
		}
		text, err := f.bundle(d.Digest)
		if err != nil && Unanswered(err) {
			return err
		}
		if text == nil && err == nil {
			continue // not a bundle, or not one that is wanted
		}
		var c *Claim
		if err == nil {
			c, err = parseBundle(text, f.image)
		}
		f.add(to, c, err, Referrer, d.Digest.String())
	}
	return nil
}

// bundle reads the bundle that a manifest holds, or nil when it holds something else or of no interest.
func (f fetcher) bundle(digest v1.Hash) ([]byte, error) {
	image, err := remote.Image(f.image.Context().Digest(digest.String()), f.opts...)
	if err != nil {
		return nil, err
	}
	m, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	if t, ok := m.Annotations[predicateAnnotation]; ok && !f.wants(t) {
		return nil, nil // not every registry says so in its list
	}
	if len(m.Layers) != 1 || !strings.HasPrefix(string(m.Layers[0].MediaType), bundlePrefix) {
		return nil, nil
	}
	return f.blob(m.Layers[0])
}

// blob reads a blob whole; go-containerregistry verifies its digest.
func (f fetcher) blob(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxClaimBytes {
		return nil, fmt.Errorf("it has %d bytes, more than %d", d.Size, maxClaimBytes)
	}
	if f.left.Add(-d.Size) < 0 {
		f.left.Add(d.Size)
		return nil, fmt.Errorf("more than %d bytes are attached to the image", maxFetched)
	}
	layer, err := remote.Layer(f.image.Context().Digest(d.Digest.String()), f.opts...)
	if err != nil {
		return nil, err
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err == nil && int64(len(text)) != d.Size {
		err = fmt.Errorf("it has not the %d bytes that its manifest says", d.Size)
	}
	return text, err
}

// tag reads the claims of the older layout.
func (f fetcher) tag(suffix string, to *Evidence) error {
	if suffix == "sig" && !f.wants(SignPredicate) || suffix == "att" && len(f.wanted) == 1 && f.wants(SignPredicate) {
		return nil
	}
	image, err := remote.Image(claimTag(f.image, suffix), f.opts...)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := image.Manifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	for _, d := range m.Layers[:min(len(m.Layers), maxClaims)] {
		if t, ok := d.Annotations[tagPredicate]; ok && !f.wants(t) {
			continue
		}
		text, err := f.blob(d)
		if err != nil && Unanswered(err) {
			return err
		}
		var c *Claim
		switch {
		case err != nil:
		case suffix == "sig":
			c, err = parseSimple(text, d.Annotations[signatureAnnotation], f.image)
		default:
			c, err = parseEnvelope(text, f.image)
		}
		f.add(to, c, err, Tag, digest.String())
	}
	return nil
}

// notFound is whether a registry answered that something is not there.
func notFound(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}

// Unanswered is whether an error came from the way to the registry or from its failure, so
// that asking again may help, and not from what it holds.
func Unanswered(err error) bool {
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.StatusCode >= http.StatusInternalServerError || refused.StatusCode == http.StatusTooManyRequests
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
