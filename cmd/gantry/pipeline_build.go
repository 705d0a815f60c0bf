package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/build"
	"github.com/gantryhq/gantry/services/pipeline"
	"github.com/gantryhq/gantry/services/scan/osvdb"
)

// pipelineBuilder makes the images of Builds. It implements pipeline.Builder.
type pipelineBuilder struct{ imageBuilder }

var _ pipeline.Builder = (*pipelineBuilder)(nil)

// Build implements pipeline.Builder.
func (b *pipelineBuilder) Build(ctx context.Context, r pipeline.ImageRequest) (v1alpha1.BuiltImage, error) {
	began := time.Now()
	image := v1alpha1.BuiltImage{Name: r.BuildRequest.Repository, Tag: r.Tag}
	say := func(format string, args ...any) { fmt.Fprintf(r.Log, format+"\n", args...) }
	r.BuildRequest.Progress = func(step string) { say("%s", step) }
	if _, err := b.Base(ctx, r.BuildRequest); err != nil { // makes the Debian base when it is missing
		return image, worthRetrying(err)
	}
	target := b.registry + "/" + image.Name
	digest, err := b.build(ctx, r.BuildRequest, func(o *build.Options) {
		o.Tags = []string{target + ":" + r.Tag, target + ":latest"}
		o.NoNetwork = r.NoNetwork
		o.Display, o.Plain = r.Log, true
		o.Progress = nil
	})
	if err != nil {
		return image, worthRetrying(err)
	}
	image.Reference = target + "@" + digest
	if err := b.signer.sign(ctx, image.Reference); err != nil {
		image.SignMessage = err.Error()
		say("warning: not signed: %v", err)
		return image, ctx.Err()
	}
	image.Signed = true
	if err := b.attachProvenance(ctx, r, image.Reference, began); err != nil {
		image.SignMessage = err.Error()
		say("warning: no provenance: %v", err)
		return image, ctx.Err()
	}
	image.Provenance = true
	return image, nil
}

// provenance is a predicate of SLSA provenance 1.0 (https://slsa.dev/spec/v1.0/provenance).
type provenance struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		ResolvedDependencies []dependency   `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder  map[string]string `json:"builder"`
		Metadata map[string]string `json:"metadata"`
	} `json:"runDetails"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

// attachProvenance says of an image from which commit and by which Build it was made.
// An image that has its provenance already, since nothing changed, keeps it.
func (b *pipelineBuilder) attachProvenance(ctx context.Context, r pipeline.ImageRequest, ref string, began time.Time) error {
	digest, err := name.NewDigest(ref)
	if err != nil {
		return err
	}
	signer, err := b.signer.privateKey(ctx)
	if err != nil {
		return err
	}
	_, err = attest.Verify(ctx, digest, attest.ProvenancePredicate, []*attest.PublicKey{signer.Public}, remoteOptions(ctx)...)
	if !errors.As(err, new(*attest.UnverifiedError)) {
		return err
	}
	var p provenance
	p.BuildDefinition.BuildType = "https://gantry.dev/pipeline/v1alpha1"
	p.BuildDefinition.ExternalParameters = map[string]any{
		"repository": r.Repository, "pipeline": r.Pipeline, "image": r.BuildRequest.Repository, "target": r.Target, "args": r.Args,
	}
	p.BuildDefinition.ResolvedDependencies = []dependency{{URI: "git+" + r.Repository, Digest: map[string]string{"gitCommit": r.Commit}}}
	p.RunDetails.Builder = map[string]string{"id": "https://gantry.dev/build-worker"}
	p.RunDetails.Metadata = map[string]string{
		"invocationId": r.Pipeline + "/" + r.Tag,
		"startedOn":    began.UTC().Format(time.RFC3339), "finishedOn": time.Now().UTC().Format(time.RFC3339),
	}
	return attest.Attach(ctx, digest, attest.ProvenancePredicate, p, signer, attest.Referrer, remoteOptions(ctx)...)
}

// retryable is an error that may be gone at the next try.
type retryable struct{ error }

func (retryable) Transient() bool { return true }
func (r retryable) Unwrap() error { return r.error }

// worthRetrying marks what the machine did wrong, not the Dockerfile: a worker that
// ended, a registry that restarts.
func worthRetrying(err error) error {
	var network net.Error
	if errors.As(err, &network) {
		return retryable{err}
	}
	for _, sign := range []string{"connection refused", "connection reset", "code = Unavailable", "transport is closing", "start build worker"} {
		if strings.Contains(err.Error(), sign) && !strings.Contains(err.Error(), "did not complete successfully") {
			return retryable{err}
		}
	}
	return err
}

// scanPoll is how often a scan's result is looked for.
const scanPoll = 200 * time.Millisecond

// Scanned implements pipeline.Builder: what is pushed is scanned by itself, and the
// signed result comes to lie beside the image.
func (b *pipelineBuilder) Scanned(ctx context.Context, image *v1alpha1.BuiltImage) error {
	digest, err := name.NewDigest(image.Reference)
	if err != nil {
		return err
	}
	if database, err := b.head(ctx, osvdb.Reference(b.registry)); err == nil && database == "" {
		return errors.New("there is no vulnerability database: gantry scan db import")
	}
	key, err := b.signer.publicKey(ctx)
	if err != nil {
		return err
	}
	for {
		evidence, err := attest.Fetch(ctx, digest, []string{attest.VulnerabilityPredicate, attest.SPDXPredicate, attest.CycloneDXPredicate}, remoteOptions(ctx)...)
		if err != nil {
			return err
		}
		for _, kind := range []string{attest.SPDXPredicate, attest.CycloneDXPredicate} {
			if found, err := evidence.Verified(kind, key); err == nil && len(found) > 0 {
				image.SBOM = true
			}
		}
		if found, err := evidence.Verified(attest.VulnerabilityPredicate, key); err == nil && len(found) > 0 {
			_, n, err := attest.ParseScan(found[len(found)-1].Predicate)
			if err != nil {
				return err
			}
			image.Scan = fmt.Sprintf("%d critical, %d high, %d medium, %d low, %d unknown", n.Critical, n.High, n.Medium, n.Low, n.Unknown)
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(scanPoll):
		}
	}
}
