package attest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Claim is one signed statement about an image.
type Claim struct {
	PredicateType string
	Predicate     json.RawMessage
	Layout        Layout
	// Digest is that of the manifest in the registry that holds the claim.
	Digest string
	// Key is who signed, once Verify has found out.
	Key *PublicKey

	signed     []byte // what the signatures are of
	signatures [][]byte
}

// Layout is how a claim is attached to its image.
type Layout string

const (
	// Referrer is a Sigstore bundle that refers to the image, what cosign 3 writes.
	Referrer Layout = "referrer"
	// Tag is the older layout: layers of an image with the tag sha256-….sig or .att.
	Tag Layout = "tag"
)

// SignedBy returns the first of the keys that signed the claim, or nil.
func (c *Claim) SignedBy(keys ...*PublicKey) *PublicKey {
	for _, k := range keys {
		if slices.ContainsFunc(c.signatures, func(sig []byte) bool { return k.Verify(c.signed, sig) == nil }) {
			return k
		}
	}
	return nil
}

// Evidence is everything that is attached to an image and was asked for. None of it is
// verified.
type Evidence struct {
	Image  name.Digest
	Claims []*Claim
	// Rejected says why what is attached too is no claim about the image.
	Rejected []error
}

// Verified returns the claims of a predicate type that one of the keys signed. When there
// are none the error is an [*UnverifiedError].
func (e *Evidence) Verified(predicateType string, keys ...*PublicKey) ([]*Claim, error) {
	var found []*Claim
	others := 0
	for _, c := range e.Claims {
		if c.PredicateType != predicateType {
			continue
		}
		if c.Key = c.SignedBy(keys...); c.Key != nil {
			found = append(found, c)
		} else {
			others++
		}
	}
	if len(found) == 0 {
		return nil, &UnverifiedError{Image: e.Image, PredicateType: predicateType, Others: others, Rejected: e.Rejected}
	}
	return found, nil
}

// UnverifiedError says that no claim about an image is signed by one of the wanted keys.
type UnverifiedError struct {
	Image         name.Digest
	PredicateType string
	Others        int     // claims of the type that none of the keys signed
	Rejected      []error // what is attached but is no claim about the image
}

// Error implements error.
func (e *UnverifiedError) Error() string {
	what := "signature"
	if e.PredicateType != SignPredicate {
		what = "attestation " + e.PredicateType
	}
	switch {
	case e.Others == 1:
		return fmt.Sprintf("its %s is not by an accepted key, or was changed afterwards", what)
	case e.Others > 1:
		return fmt.Sprintf("none of its %d %ss is by an accepted key and unchanged", e.Others, what)
	case len(e.Rejected) > 0:
		return fmt.Sprintf("it has no %s: of what is attached, %v", what, e.Rejected[0])
	}
	return "it has no " + what
}

// Verify reads the claims of a predicate type about an image and returns those that one of
// the keys signed, as [Evidence.Verified] does.
func Verify(ctx context.Context, image name.Digest, predicateType string, keys []*PublicKey, opts ...remote.Option) ([]*Claim, error) {
	e, err := Fetch(ctx, image, []string{predicateType}, opts...)
	if err != nil {
		return nil, err
	}
	return e.Verified(predicateType, keys...)
}
