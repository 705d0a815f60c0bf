package policy

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/registry"
)

func policies(specs ...v1alpha1.RegistryPolicySpec) (all []*v1alpha1.RegistryPolicy) {
	for _, s := range specs {
		all = append(all, &v1alpha1.RegistryPolicy{Spec: s})
	}
	return all
}

func TestPoliciesOfANamespaceHoldTogether(t *testing.T) {
	large, small := resource.MustParse("10Gi"), resource.MustParse("1Ki")
	p, err := holds(policies(
		v1alpha1.RegistryPolicySpec{ImmutableTags: []string{"v*"}, Quota: &large},
		v1alpha1.RegistryPolicySpec{ImmutableTags: []string{"release-*.0"}, Quota: &small},
		v1alpha1.RegistryPolicySpec{Upstreams: []v1alpha1.RegistryUpstream{{Name: "hub", Server: "https://hub.example", RefreshSeconds: 60}}},
	), "shop/hub/library/nginx", nil)
	if err != nil || *p.Quota != 1024 {
		t.Fatalf("%+v, %v", p, err)
	}
	for tag, want := range map[string]bool{"v1": true, "V1": false, "latest": false, "release-2.0": true, "release-2x0": false, "xv1": false} {
		if p.Immutable(tag) != want {
			t.Errorf("tag %s is immutable: %v", tag, !want)
		}
	}
	if u := p.Upstream; u == nil || u.Repository != "library/nginx" || u.Refresh != time.Minute || u.Login != nil {
		t.Errorf("upstream %+v", u)
	}
	if p, err := holds(nil, "shop/cart", nil); err != nil || p.Quota != nil || p.Immutable != nil || p.Upstream != nil {
		t.Errorf("without policies: %+v, %v", p, err)
	}
	if _, err := holds(policies(v1alpha1.RegistryPolicySpec{Upstreams: []v1alpha1.RegistryUpstream{{Name: "x", CABundle: []byte("none")}}}), "shop/x/y", nil); err == nil {
		t.Error("a bundle without certificates is accepted")
	}
}

func TestRetentionKeepsWhatAnyRuleKeeps(t *testing.T) {
	now := time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC)
	var tags []registry.Tagged
	for i, tag := range []string{"5", "4", "v3", "2", "1"} { // a day between them, 5 is the newest
		tags = append(tags, registry.Tagged{Tag: tag, Pushed: now.Add(-time.Duration(i) * 24 * time.Hour)})
	}
	last := func(n int32) v1alpha1.RetentionRule { return v1alpha1.RetentionRule{KeepLast: ptr.To(n)} }
	for name, c := range map[string]struct {
		rules []v1alpha1.RetentionRule
		want  string
	}{
		"no rules":         {nil, "[]"},
		"the last two":     {[]v1alpha1.RetentionRule{last(2)}, "[v3 2 1]"},
		"none":             {[]v1alpha1.RetentionRule{last(0)}, "[5 4 v3 2 1]"},
		"a pattern too":    {[]v1alpha1.RetentionRule{last(1), {KeepTags: []string{"v*"}}}, "[4 2 1]"},
		"younger":          {[]v1alpha1.RetentionRule{{KeepYoungerThan: &metav1.Duration{Duration: 60 * time.Hour}}}, "[2 1]"},
		"of others":        {[]v1alpha1.RetentionRule{{Repositories: []string{"pay*"}, KeepLast: ptr.To[int32](0)}}, "[]"},
		"of this and more": {[]v1alpha1.RetentionRule{{Repositories: []string{"c*t"}, KeepLast: ptr.To[int32](4)}, last(1)}, "[1]"},
	} {
		got := []string{}
		for _, t := range expired(policies(v1alpha1.RegistryPolicySpec{Retention: c.rules}), "cart", tags, now) {
			got = append(got, t.Tag)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}
