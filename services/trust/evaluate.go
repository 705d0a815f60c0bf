package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/attest"
)

// evidenceSource is what is known about images.
type evidenceSource interface {
	// claims are those of the given predicate types that are attached to an image.
	claims(ctx context.Context, image name.Digest, predicateTypes []string) (*attest.Evidence, error)
	// layers are the digests of an image's unpacked layers, the lowest first.
	layers(ctx context.Context, image name.Digest) ([]string, error)
	// base is the image that a base image's name stands for.
	base(ctx context.Context, image string) (name.Digest, error)
}

// refusal is a rule that an image breaks.
type refusal struct {
	rule   string // the field of the policy
	reason string
	remedy string // a command, or what to do
}

// verdict is what a policy says about an image. Without refusals it is accepted.
type verdict struct {
	refusals []refusal
	// recheck is when to look again, and until when the verdict holds if that is impossible. Zero
	// is never and for ever: what was signed stays signed.
	recheck, until time.Time
}

// evaluate applies all rules of a policy to an image. An error means that it could not be decided.
func (p *policy) evaluate(ctx context.Context, from evidenceSource, image name.Digest, now time.Time) (verdict, error) {
	var v verdict
	if p.problem != nil {
		return v, fmt.Errorf("the policy cannot be kept: %w", p.problem)
	}
	evidence := &attest.Evidence{Image: image}
	if wanted := p.predicateTypes(); len(wanted) > 0 {
		var err error
		if evidence, err = from.claims(ctx, image, wanted); err != nil {
			return v, err
		}
	}
	v.refusals = append(v.refusals, p.checkSignatures(evidence)...)
	refused, err := p.checkBase(ctx, from, image)
	if err != nil {
		return v, err
	}
	v.refusals = append(v.refusals, refused...)
	v.refusals = append(v.refusals, p.checkScan(evidence, now, &v)...)
	v.refusals = append(v.refusals, p.checkAttestations(evidence)...)
	return v, nil
}

// predicateTypes is what the rules need to know.
func (p *policy) predicateTypes() []string {
	var wanted []string
	if len(p.signers) > 0 {
		wanted = append(wanted, attest.SignPredicate)
	}
	if p.scan != nil {
		wanted = append(wanted, attest.VulnerabilityPredicate)
	}
	for _, a := range p.attestations {
		wanted = append(wanted, a.predicateType)
	}
	return wanted
}

func (p *policy) checkSignatures(e *attest.Evidence) []refusal {
	if p.object.Spec.Signatures == nil {
		return nil
	}
	if p.object.Spec.Signatures.Require != v1alpha1.TrustAll {
		_, err := e.Verified(attest.SignPredicate, publicKeys(p.signers)...)
		if err == nil {
			return nil
		}
		return []refusal{{"signatures", fmt.Sprintf("%v (accepted: %s)", err, names(p.signers, " or ")), signCommand(p.signers[0], e.Image)}}
	}
	var refused []refusal
	for _, k := range p.signers {
		if _, err := e.Verified(attest.SignPredicate, k.PublicKey); err != nil {
			refused = append(refused, refusal{"signatures", fmt.Sprintf("key %s must have signed too, but %v", k.name, err), signCommand(k, e.Image)})
		}
	}
	return refused
}

func names(keys []key, join string) string {
	var out []string
	for _, k := range keys {
		out = append(out, "key "+k.name)
	}
	return strings.Join(out, join)
}

func keyFlag(k key) string {
	if k.private == "" {
		return ""
	}
	return "--key " + k.private + " "
}

func signCommand(k key, image name.Digest) string {
	return "gantry sign " + keyFlag(k) + image.String()
}

// checkBase looks whether the image's first layers are those of an allowed base image.
func (p *policy) checkBase(ctx context.Context, from evidenceSource, image name.Digest) ([]refusal, error) {
	if p.object.Spec.BaseImages == nil {
		return nil, nil
	}
	layers, err := from.layers(ctx, image)
	if err != nil {
		return nil, err
	}
	var problems []string
	var unknown error
	for _, allowed := range p.bases {
		base, err := from.base(ctx, allowed)
		if err != nil {
			unknown = err
			problems = append(problems, err.Error())
			continue
		}
		of, err := from.layers(ctx, base)
		if err != nil {
			unknown = err
			continue
		}
		if len(of) == 0 || len(layers) < len(of) || !slices.Equal(layers[:len(of)], of) {
			continue
		}
		if len(p.baseSigners) == 0 {
			return nil, nil
		}
		evidence, err := from.claims(ctx, base, []string{attest.SignPredicate})
		if err != nil {
			return nil, err
		}
		if _, err := evidence.Verified(attest.SignPredicate, publicKeys(p.baseSigners)...); err != nil {
			return []refusal{{"baseImages", fmt.Sprintf("it is built on %s, and of that %v", allowed, err), signCommand(p.baseSigners[0], base)}}, nil
		}
		return nil, nil
	}
	if unknown != nil {
		return nil, fmt.Errorf("compare it with the allowed base images: %w", unknown)
	}
	reason := "it is not built on an allowed base image (" + strings.Join(p.bases, ", ") + ") as it is now"
	if len(problems) > 0 {
		reason += ": " + strings.Join(problems, "; ")
	}
	return []refusal{{"baseImages", reason, "build it again FROM " + p.bases[0]}}, nil
}

var severities = []v1alpha1.TrustSeverity{v1alpha1.TrustNone, v1alpha1.TrustLow, v1alpha1.TrustMedium, v1alpha1.TrustHigh, v1alpha1.TrustCritical}

// checkScan looks at the newest scan result of an accepted key.
func (p *policy) checkScan(e *attest.Evidence, now time.Time, v *verdict) []refusal {
	if p.scan == nil {
		return nil
	}
	remedy := "gantry scan " + e.Image.String()
	claims, err := e.Verified(attest.VulnerabilityPredicate, publicKeys(p.scan.signers)...)
	if err != nil {
		return []refusal{{"scan", fmt.Sprintf("%v (accepted: %s)", err, names(p.scan.signers, " or ")), remedy}}
	}
	var newest *attest.Scan
	var found attest.Severities
	for _, c := range claims {
		scan, counts, err := attest.ParseScan(c.Predicate)
		if err != nil {
			return []refusal{{"scan", err.Error(), remedy}}
		}
		if newest == nil || scan.Metadata.Finished.After(newest.Metadata.Finished) {
			newest, found = scan, counts
		}
	}
	finished := newest.Metadata.Finished
	if p.scan.maxAge > 0 {
		v.until = finished.Add(p.scan.maxAge)
		if !v.until.After(now) {
			return []refusal{{"scan", fmt.Sprintf("its last scan is from %s, older than %s", finished.UTC().Format(time.RFC3339), p.scan.maxAge), "gantry scan --fresh " + e.Image.String()}}
		}
	}
	v.recheck = now.Add(scanPeriod)
	// Findings without a severity count as medium: neither nothing nor the worst. Who can
	// pull an image has the credentials in it.
	counts := []int{0, found.Low, found.Medium + found.Unknown, found.High + found.Secrets, found.Critical}
	for i := len(severities) - 1; i > slices.Index(severities, p.scan.max); i-- {
		if counts[i] > 0 {
			what := fmt.Sprintf("%d of severity %s", counts[i], severities[i])
			if severities[i] == v1alpha1.TrustHigh && found.Secrets > 0 {
				what += fmt.Sprintf(" (%d of them credentials in its layers)", found.Secrets)
			}
			return []refusal{{"scan", fmt.Sprintf("its last scan found %s, and the worst that is accepted is %s", what, p.scan.max),
				"update what it is built from, build it again and scan it: " + remedy}}
		}
	}
	return nil
}

func (p *policy) checkAttestations(e *attest.Evidence) []refusal {
	var refused []refusal
	for _, rule := range p.attestations {
		remedy := fmt.Sprintf("gantry attest %s--type %s --predicate FILE %s", keyFlag(rule.signers[0]), rule.predicateType, e.Image)
		claims, err := e.Verified(rule.predicateType, publicKeys(rule.signers)...)
		if err == nil && len(rule.builders) > 0 {
			err = checkBuilder(claims, rule.builders)
			remedy = "have it built by " + strings.Join(rule.builders, " or ")
		}
		if err != nil {
			refused = append(refused, refusal{"attestations", fmt.Sprintf("%v (accepted: %s)", err, names(rule.signers, " or ")), remedy})
		}
	}
	return refused
}

// checkBuilder wants one of the builders in a provenance, of SLSA version 1 or 0.2.
func checkBuilder(claims []*attest.Claim, builders []string) error {
	seen := []string{}
	for _, c := range claims {
		var provenance struct {
			RunDetails struct {
				Builder struct{ ID string } `json:"builder"`
			} `json:"runDetails"`
			Builder struct{ ID string } `json:"builder"`
		}
		if err := json.Unmarshal(c.Predicate, &provenance); err != nil {
			return fmt.Errorf("read its provenance: %w", err)
		}
		for _, id := range []string{provenance.RunDetails.Builder.ID, provenance.Builder.ID} {
			if id != "" && slices.Contains(builders, id) {
				return nil
			}
			if id != "" {
				seen = append(seen, id)
			}
		}
	}
	if len(seen) == 0 {
		return errors.New("its provenance names no builder")
	}
	return fmt.Errorf("it was built by %s", strings.Join(seen, ", "))
}
