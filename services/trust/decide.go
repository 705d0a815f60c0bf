package trust

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

// RefusedError says why a policy refuses an image, and what would satisfy it.
type RefusedError struct {
	Image  string // as it was named
	Digest string // or "" when it was not found
	Policy string
	// Undecided is set when the policy could not be applied; it may be later.
	Undecided bool
	refusals  []refusal
}

// Error implements error. It is one line, for events and statuses.
func (e *RefusedError) Error() string {
	var rules []string
	for _, r := range e.refusals {
		rules = append(rules, fmt.Sprintf("rule %s: %s; to satisfy it: %s", r.rule, r.reason, r.remedy))
	}
	image := e.Image
	if e.Digest != "" && !strings.Contains(image, e.Digest) {
		image += " (" + e.Digest + ")"
	}
	return fmt.Sprintf("image %s is refused by TrustPolicy %s, %s", image, e.Policy, strings.Join(rules, "; "))
}

// decider applies policies and remembers what they accepted.
type decider struct {
	from     *registries
	accepted *memory
	now      func() time.Time
	flights  singleflight.Group
}

// decide says whether a policy accepts a digest: nil, or a *RefusedError.
func (d *decider) decide(ctx context.Context, p *policy, image name.Digest, named string) error {
	remembered, ok := d.accepted.get(p.fingerprint, image.Name())
	ok = ok && p.problem == nil
	if ok && remembered.fresh(d.now()) {
		return nil
	}
	// Pods of one image that come together share one look.
	answer := d.flights.DoChan(p.name()+"/"+p.fingerprint+"/"+image.Name(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return p.evaluate(ctx, d.from, image, d.now())
	})
	var v verdict
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case a := <-answer:
		v, err = a.Val.(verdict), a.Err
	}
	refused := &RefusedError{Image: named, Digest: image.DigestStr(), Policy: p.name()}
	switch {
	case err != nil && ok && remembered.valid(d.now()):
		return nil // as it was when the registry last answered
	case err != nil:
		refused.Undecided = true
		refused.refusals = []refusal{{"all", "it cannot be checked: " + err.Error(), undecidedRemedy(err, p, named)}}
		return refused
	case len(v.refusals) > 0:
		refused.refusals = v.refusals
		return refused
	}
	d.accepted.add(acceptance{Fingerprint: p.fingerprint, Image: image.Name(), Recheck: v.recheck, Until: v.until})
	return nil
}

// undecidedRemedy is what to do when evidence cannot be had.
func undecidedRemedy(err error, p *policy, image string) string {
	var answer *transport.Error
	switch {
	case p.problem != nil:
		return "kubectl describe trustpolicy " + p.name()
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return fmt.Sprintf("let the registry's readers in: kubectl -n %s create secret docker-registry %s --docker-server=REGISTRY --docker-username=USER --docker-password=PASSWORD", Namespace, registryLogin)
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return "gantry push " + image
	}
	return "make its registry answer"
}

// resolve finds what an image's name stands for. The error is a *RefusedError, in the name of p.
func (d *decider) resolve(ctx context.Context, image string, p *policy) (name.Digest, error) {
	if digest, err := name.NewDigest(image); err == nil {
		return digest, nil
	}
	digest, err := d.from.resolve(ctx, image, 0)
	if err != nil {
		return digest, &RefusedError{Image: image, Policy: p.name(), Undecided: true, refusals: []refusal{{
			"all", "it cannot be found: " + err.Error(), undecidedRemedy(err, p, image),
		}}}
	}
	return digest, nil
}

// pinned is an image's name with the digest that was checked. Its tag stays, to be read.
func pinned(image string, digest name.Digest) string {
	if strings.Contains(image, "@") {
		return image
	}
	return image + "@" + digest.DigestStr()
}

// atDigest names a digest in an image's repository.
func atDigest(image, digest string) (name.Digest, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return name.Digest{}, fmt.Errorf("image %q: %w", image, err)
	}
	return name.NewDigest(named.Name() + "@" + digest)
}
