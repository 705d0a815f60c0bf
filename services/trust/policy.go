package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/attest"
)

// policy is a TrustPolicy, ready to be applied. It is not changed once it is made.
type policy struct {
	object   *v1alpha1.TrustPolicy
	selector labels.Selector
	images   []*regexp.Regexp
	except   []*regexp.Regexp

	signers      []key
	bases        []string
	baseSigners  []key
	scan         *scanRule
	attestations []attestationRule

	// problem is why the policy cannot be kept, or nil. It refuses everything it covers then.
	problem error
	// fingerprint is a hash of the spec and the keys: what was accepted for it stays accepted.
	fingerprint string
}

// key is a public key and how its owner signs.
type key struct {
	*attest.PublicKey
	name    string
	private string // the reference to sign with, "" for the default one
}

type scanRule struct {
	max     v1alpha1.TrustSeverity
	maxAge  time.Duration // 0 is any
	signers []key
}

type attestationRule struct {
	predicateType string
	builders      []string
	signers       []key
}

func (p *policy) name() string { return p.object.Name }

func (p *policy) enforced() bool { return p.object.Spec.Mode != v1alpha1.TrustWarn }

// covers is whether the policy is about images of this name.
func (p *policy) covers(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false // nothing can be pulled by this name
	}
	matches := func(patterns []*regexp.Regexp) bool {
		return slices.ContainsFunc(patterns, func(r *regexp.Regexp) bool { return r.MatchString(named.Name()) })
	}
	return matches(p.images) && !matches(p.except)
}

// coversNamespace is the rule of the webhooks' selectors.
func (p *policy) coversNamespace(ns *corev1.Namespace) bool {
	return !slices.Contains(systemNamespaces, ns.Name) && p.selector.Matches(labels.Set(ns.Labels))
}

// keySource finds public keys.
type keySource interface {
	instance(ctx context.Context) (*attest.PublicKey, error)
	secret(ctx context.Context, name string) (*attest.PublicKey, error)
}

// compile makes a policy ready. What is wrong with it becomes its problem.
func compile(ctx context.Context, object *v1alpha1.TrustPolicy, keys keySource) *policy {
	p := &policy{object: object, selector: labels.Nothing()}
	if err := p.compile(ctx, keys); err != nil {
		p.problem = err
	}
	return p
}

func (p *policy) compile(ctx context.Context, source keySource) (err error) {
	spec := &p.object.Spec
	p.images, p.except = patterns(spec.Images), patterns(spec.ExceptImages)
	if p.selector, err = metav1.LabelSelectorAsSelector(&spec.NamespaceSelector); err != nil {
		p.selector = labels.Everything()
		return fmt.Errorf("read namespaceSelector: %w", err)
	}
	byDefault := []v1alpha1.TrustKey{{Name: "instance", Instance: true}}
	if spec.Signatures != nil {
		if p.signers, err = resolveKeys(ctx, source, spec.Signatures.Keys); err != nil {
			return err
		}
	}
	if b := spec.BaseImages; b != nil {
		for _, image := range b.Allowed {
			if _, err := reference.ParseNormalizedNamed(image); err != nil || image == "scratch" {
				return fmt.Errorf("baseImages: %q cannot be recognised by its layers: name an image with layers", image)
			}
		}
		p.bases = b.Allowed
		if p.baseSigners, err = resolveKeys(ctx, source, b.Keys); err != nil {
			return err
		}
	}
	if s := spec.Scan; s != nil {
		p.scan = &scanRule{max: s.MaxSeverity}
		if s.MaxAge != nil {
			p.scan.maxAge = s.MaxAge.Duration
		}
		if p.scan.signers, err = resolveKeys(ctx, source, orKeys(s.Keys, byDefault)); err != nil {
			return err
		}
	}
	for _, a := range spec.Attestations {
		rule := attestationRule{predicateType: a.PredicateType, builders: a.Builders}
		if rule.signers, err = resolveKeys(ctx, source, orKeys(a.Keys, byDefault)); err != nil {
			return err
		}
		p.attestations = append(p.attestations, rule)
	}
	p.fingerprint, err = p.hash()
	return err
}

func orKeys(given, byDefault []v1alpha1.TrustKey) []v1alpha1.TrustKey {
	if len(given) == 0 {
		return byDefault
	}
	return given
}

func resolveKeys(ctx context.Context, source keySource, wanted []v1alpha1.TrustKey) ([]key, error) {
	var keys []key
	for _, w := range wanted {
		k := key{name: w.Name}
		var err error
		switch {
		case w.Instance:
			k.PublicKey, err = source.instance(ctx)
		case w.SecretRef != nil:
			k.private = "k8s://" + Namespace + "/" + w.SecretRef.Name
			k.PublicKey, err = source.secret(ctx, w.SecretRef.Name)
		default:
			k.private = "PRIVATE-KEY-OF-" + w.Name
			k.PublicKey, err = attest.ParsePublicKey([]byte(w.PEM))
		}
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", w.Name, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// hash identifies what the policy demands. The mode and what is covered are no part of it.
func (p *policy) hash() (string, error) {
	ids := func(keys []key) (out []string) {
		for _, k := range keys {
			out = append(out, k.ID)
		}
		return out
	}
	demands := map[string]any{"bases": p.bases, "baseKeys": ids(p.baseSigners), "keys": ids(p.signers)}
	if p.object.Spec.Signatures != nil {
		demands["require"] = p.object.Spec.Signatures.Require
	}
	if p.scan != nil {
		demands["scan"] = []any{p.scan.max, p.scan.maxAge, ids(p.scan.signers)}
	}
	for i, a := range p.attestations {
		demands[fmt.Sprint("attestation", i)] = []any{a.predicateType, a.builders, ids(a.signers)}
	}
	text, err := json.Marshal(demands)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// patterns compiles globs: * is any characters but slashes, ** any.
func patterns(globs []string) []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, g := range globs {
		text := regexp.QuoteMeta(g)
		text = strings.ReplaceAll(text, `\*\*`, `.*`)
		text = strings.ReplaceAll(text, `\*`, `[^/]*`)
		out = append(out, regexp.MustCompile("^"+text+"$")) // a quoted text compiles
	}
	return out
}

func publicKeys(keys []key) []*attest.PublicKey {
	out := make([]*attest.PublicKey, len(keys))
	for i, k := range keys {
		out[i] = k.PublicKey
	}
	return out
}
