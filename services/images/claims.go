package images

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/attest"
)

// keyring is the keys that are known, and since when.
type keyring struct {
	keys []namedKey
	at   time.Time
}

type namedKey struct {
	name string
	*attest.PublicKey
}

// instanceKey is what the installation's own key is called.
const instanceKey = "instance"

// keys are the installation's own and those that TrustPolicies spell out.
func (s *Service) keys(ctx context.Context) ([]namedKey, error) {
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	if s.cfg.Now().Sub(known.at) < claimsFor && known.keys != nil {
		return known.keys, nil
	}
	own, err := s.cfg.InstanceKey(ctx)
	if err != nil {
		return nil, err
	}
	fresh := keyring{keys: []namedKey{{instanceKey, own}}, at: s.cfg.Now()}
	// A cluster may lack the kind: then there are no others.
	if policies, err := s.policies.TrustPolicies().List(ctx, metav1.ListOptions{}); err == nil {
		for _, p := range policies.Items {
			if p.Spec.Signatures == nil {
				continue
			}
			for _, k := range p.Spec.Signatures.Keys {
				if key, err := attest.ParsePublicKey([]byte(k.PEM)); k.PEM != "" && err == nil {
					fresh.keys = append(fresh.keys, namedKey{k.Name, key})
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = fresh
	return fresh.keys, nil
}

// readClaims reads what is attached to an image.
func (s *Service) readClaims(ctx context.Context, ref name.Digest, i *Details) error {
	keys, err := s.keys(ctx)
	if err != nil {
		return err
	}
	evidence, err := attest.Fetch(ctx, ref, nil, s.options(ctx)...)
	if err != nil {
		return err
	}
	i.SignedBy, i.Unknown, i.Provenance, i.SBOM, i.Scan = nil, 0, nil, false, nil
	i.Attached, i.Findings, i.Faults, i.Rejected = nil, nil, nil, nil
	for _, why := range evidence.Rejected {
		i.Rejected = append(i.Rejected, why.Error())
	}
	for _, c := range evidence.Claims {
		by := ""
		if n := slices.IndexFunc(keys, func(k namedKey) bool { return c.SignedBy(k.PublicKey) != nil }); n >= 0 {
			by = keys[n].name
		}
		i.Attached = append(i.Attached, Attached{Type: c.PredicateType, Key: by})
		i.claim(c, by)
	}
	slices.Sort(i.SignedBy)
	i.SignedBy = slices.Compact(i.SignedBy)
	return nil
}

// claim takes up one statement. What no known key signed counts for nothing but as an unknown signature.
func (i *Details) claim(c *attest.Claim, by string) {
	if c.PredicateType == attest.SignPredicate {
		if by == "" {
			i.Unknown++
		} else {
			i.SignedBy = append(i.SignedBy, by)
		}
	}
	if by == "" {
		return
	}
	switch c.PredicateType {
	case attest.SPDXPredicate, attest.CycloneDXPredicate:
		i.SBOM = true
	case attest.ProvenancePredicate:
		i.Provenance = provenance(c.Predicate)
	case attest.VulnerabilityPredicate:
		i.scanned(c.Predicate)
	}
}

func provenance(predicate json.RawMessage) *Provenance {
	var p struct {
		BuildDefinition struct {
			ExternalParameters   struct{ Repository string }
			ResolvedDependencies []struct {
				URI    string
				Digest map[string]string
			}
		}
		RunDetails struct {
			Builder  struct{ ID string }
			Metadata struct{ InvocationID string }
		}
	}
	if json.Unmarshal(predicate, &p) != nil {
		return nil
	}
	out := &Provenance{Source: p.BuildDefinition.ExternalParameters.Repository, Builder: p.RunDetails.Builder.ID, Build: p.RunDetails.Metadata.InvocationID}
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		if commit := d.Digest["gitCommit"]; commit != "" {
			out.Commit = commit
		}
	}
	return out
}

// scanned takes up the result of a scan, unless a newer one is known.
func (i *Details) scanned(predicate json.RawMessage) {
	p, found, err := attest.ParseScan(predicate)
	if err != nil || i.Scan != nil && !p.Metadata.Finished.After(i.Scan.Finished) {
		return
	}
	// The report of services/scan; another scanner's has the counts only.
	var r struct {
		Summary struct{ Fixable, Secrets, Faults int }

		Vulnerabilities []Finding
		Faults          []Fault
		Packages        []struct{}
	}
	_ = json.Unmarshal(p.Scanner.Result, &r) // what is not in that form is left out
	i.Scan = &Scan{
		Severities: found, Fixable: r.Summary.Fixable, Secrets: r.Summary.Secrets, Faults: r.Summary.Faults,
		Finished: p.Metadata.Finished, Scanner: p.Scanner.URI, Database: p.Scanner.DB.Version,
	}
	i.Findings, i.Faults, i.Packages = r.Vulnerabilities, r.Faults, len(r.Packages)
}
