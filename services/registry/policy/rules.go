package policy

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/registry"
)

// matches is whether a text fits a pattern, in which * stands for any characters.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	ok, err := regexp.MatchString("^"+strings.Join(parts, ".*")+"$", text)
	return err == nil && ok
}

func matchesAny(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, text) })
}

// holds joins what the policies of a repository's namespace demand of it: the smallest
// quota, and every immutable tag.
func holds(policies []*v1alpha1.RegistryPolicy, repository string, login logins) (registry.Policy, error) {
	var p registry.Policy
	var immutable []string
	_, name, _ := strings.Cut(repository, "/")
	for _, each := range policies {
		spec := each.Spec
		immutable = append(immutable, spec.ImmutableTags...)
		if spec.Quota != nil {
			if quota := spec.Quota.Value(); p.Quota == nil || quota < *p.Quota {
				p.Quota = &quota
			}
		}
		for _, u := range spec.Upstreams {
			there, ok := strings.CutPrefix(name, u.Name+"/")
			if !ok {
				continue
			}
			upstream, err := upstreamOf(u, there, login)
			if err != nil {
				return p, fmt.Errorf("RegistryPolicy %s/%s: %w", each.Namespace, each.Name, err)
			}
			p.Upstream = upstream
		}
	}
	if len(immutable) > 0 {
		p.Immutable = func(tag string) bool { return matchesAny(immutable, tag) }
	}
	return p, nil
}

// logins reads the login that a Secret holds.
type logins func(ctx context.Context, secretName string) (user, password string, err error)

func upstreamOf(u v1alpha1.RegistryUpstream, repository string, login logins) (*registry.Upstream, error) {
	up := &registry.Upstream{
		Server: u.Server, Repository: repository, Refresh: time.Duration(u.RefreshSeconds) * time.Second,
	}
	if u.SecretName != "" {
		up.Login = func(ctx context.Context) (string, string, error) { return login(ctx, u.SecretName) }
	}
	if len(u.CABundle) > 0 {
		up.Roots = x509.NewCertPool()
		if !up.Roots.AppendCertsFromPEM(u.CABundle) {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, errNoCertificate)
		}
	}
	return up, nil
}

var errNoCertificate = errors.New("its caBundle has no certificate")

// expired are the tags of a repository that no rule keeps. Without a rule for the
// repository all are kept.
func expired(policies []*v1alpha1.RegistryPolicy, name string, tags []registry.Tagged, now time.Time) []registry.Tagged {
	var rules []v1alpha1.RetentionRule
	for _, p := range policies {
		for _, r := range p.Spec.Retention {
			if len(r.Repositories) == 0 || matchesAny(r.Repositories, name) {
				rules = append(rules, r)
			}
		}
	}
	if len(rules) == 0 {
		return nil
	}
	newest := slices.SortedFunc(slices.Values(tags), func(a, b registry.Tagged) int {
		return cmp.Or(b.Pushed.Compare(a.Pushed), strings.Compare(a.Tag, b.Tag))
	})
	var gone []registry.Tagged
	for i, t := range newest {
		kept := slices.ContainsFunc(rules, func(r v1alpha1.RetentionRule) bool { return keeps(r, i, t, now) })
		if !kept {
			gone = append(gone, t)
		}
	}
	return gone
}

// keeps is whether a rule keeps a tag that is the nth newest.
func keeps(r v1alpha1.RetentionRule, n int, t registry.Tagged, now time.Time) bool {
	return r.KeepLast != nil && n < int(*r.KeepLast) ||
		r.KeepYoungerThan != nil && now.Sub(t.Pushed) < r.KeepYoungerThan.Duration ||
		matchesAny(r.KeepTags, t.Tag)
}
