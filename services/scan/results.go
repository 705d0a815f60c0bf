package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/scan/report"
)

// result is the whole report, with the counts that policies ask about. In them what is
// negligible counts as low: no policy knows less.
type result struct {
	Summary report.Summary `json:"summary"`
	*report.Report
}

// Results keeps reports as signed attestations on the images they are about.
type Results struct {
	Signer  *attest.Signer      // nil when results are only read
	Keys    []*attest.PublicKey // whose results count
	Version string              // of this program
	Options []remote.Option
}

// Get returns the newest report about an image that one of the keys signed, nil when
// there is none. A report for another database is one too: compare Database.
func (s *Results) Get(ctx context.Context, image name.Digest) (*report.Report, error) {
	newest, _, err := s.all(ctx, image)
	return newest, err
}

// all returns the newest report and the manifests of all that are ours.
func (s *Results) all(ctx context.Context, image name.Digest) (newest *report.Report, manifests []string, err error) {
	claims, err := attest.Verify(ctx, image, attest.VulnerabilityPredicate, s.Keys, s.Options...)
	if errors.As(err, new(*attest.UnverifiedError)) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the scan result of %s: %w", image, err)
	}
	for _, c := range claims {
		p, _, err := attest.ParseScan(c.Predicate)
		if err != nil || p.Scanner.URI != scannerURI {
			continue // signed with our key, by another scanner
		}
		var r report.Report
		if json.Unmarshal(p.Scanner.Result, &r) != nil || r.Database == nil {
			continue // of another version of this program
		}
		if c.Layout == attest.Referrer {
			manifests = append(manifests, c.Digest)
		}
		if newest == nil || r.Finished.After(newest.Finished) {
			newest = &r
		}
	}
	return newest, manifests, nil
}

const scannerURI = "https://gantry.dev/scan"

// Put signs a report and attaches it to the image, with its list of packages as an
// SPDX document when the image has none yet. Reports that it replaces are removed.
func (s *Results) Put(ctx context.Context, image name.Digest, r *report.Report) error {
	if r.Database == nil {
		return errors.New("a scan without a vulnerability database is no result to keep")
	}
	_, old, err := s.all(ctx, image)
	if err != nil {
		return err
	}
	counted := result{Summary: r.Summary(), Report: r}
	counted.Summary.Low += counted.Summary.Negligible
	text, err := json.Marshal(counted)
	if err != nil {
		return fmt.Errorf("encode the scan result of %s: %w", image, err)
	}
	p := attest.Scan{
		Invocation: attest.ScanInvocation{Parameters: []string{}},
		Scanner: attest.Scanner{URI: scannerURI, Version: s.Version, Result: text,
			DB: attest.ScanDB{URI: r.Database.Name, Version: r.Database.Digest}},
		Metadata: attest.ScanMetadata{Started: r.Started, Finished: r.Finished},
	}
	if err := attest.Attach(ctx, image, attest.VulnerabilityPredicate, p, s.Signer, attest.Referrer, s.Options...); err != nil {
		return err
	}
	if err := s.PutSBOM(ctx, image, r); err != nil {
		return err
	}
	for _, digest := range old {
		if err := remote.Delete(image.Context().Digest(digest), attest.Options(ctx, s.Options)...); err != nil {
			return fmt.Errorf("remove the former scan result of %s: %w", image, err)
		}
	}
	return nil
}

// HasSBOM is whether an image has a list of its packages that one of the keys signed.
func (s *Results) HasSBOM(ctx context.Context, image name.Digest) (bool, error) {
	_, err := attest.Verify(ctx, image, attest.SPDXPredicate, s.Keys, s.Options...)
	if errors.As(err, new(*attest.UnverifiedError)) {
		return false, nil
	}
	return err == nil, err
}

// PutSBOM attaches the packages of a report to the image, as an SPDX document, unless
// it has one: what is in an image does not change.
func (s *Results) PutSBOM(ctx context.Context, image name.Digest, r *report.Report) error {
	if has, err := s.HasSBOM(ctx, image); err != nil || has {
		return err
	}
	return attest.Attach(ctx, image, attest.SPDXPredicate, r.SPDX(), s.Signer, attest.Referrer, s.Options...)
}
