package translate

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// estate is a set of routes and Ingresses with policies, keys for them, and Services of
// another namespace.
type estate struct {
	*market
	version int
	keys    map[types.NamespacedName]*corev1.Secret
}

func newEstate(t *testing.T, seed uint64, pairs []map[string][]byte) *estate {
	w := &estate{market: newMarket(t, seed, pairs), keys: map[types.NamespacedName]*corev1.Secret{}}
	w.objects.Credential = func(n types.NamespacedName) *corev1.Secret { return w.keys[n] }
	w.objects.Credentials = func(string) []*corev1.Secret { return nil }
	for i := range 4 {
		name := types.NamespacedName{Namespace: "store", Name: shopName("service", i).Name}
		w.services[name] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	return w
}

func (w *estate) target() gatewayv1.LocalPolicyTargetReferenceWithSectionName {
	ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
	section := ""
	switch w.random.IntN(4) {
	case 0:
		ref.Kind, ref.Name = "Namespace", "shop"
	case 1:
		ref.Group, ref.Kind = "networking.k8s.io", "Ingress"
		ref.Name = gatewayv1.ObjectName(shopName("ingress", w.random.IntN(8)).Name)
	case 2:
		section = pick(w.town, "", "named")
		fallthrough
	default:
		ref.Group, ref.Kind = gatewayv1.GroupName, "HTTPRoute"
		ref.Name = gatewayv1.ObjectName(fmt.Sprint("route-", w.random.IntN(12)))
	}
	if section != "" {
		ref.SectionName = (*gatewayv1.SectionName)(&section)
	}
	return ref
}

// atGateway is a policy of the Gateway or of a listener of it.
func (w *estate) atGateway() gatewayv1.LocalPolicyTargetReferenceWithSectionName {
	ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
	ref.Group, ref.Kind, ref.Name = gatewayv1.GroupName, "Gateway", "edge"
	if section := gatewayv1.SectionName(pick(w.town, "", "any", "wild")); section != "" {
		ref.SectionName = &section
	}
	return ref
}

func (w *estate) meta(name types.NamespacedName) metav1.ObjectMeta {
	w.version++
	return metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Generation: int64(w.version), CreationTimestamp: metav1.NewTime(time.Unix(int64(w.version/3), 0))}
}

// govern changes something, perhaps of policies or grants, and says what.
func (w *estate) govern(pairs []map[string][]byte) Change {
	c := w.trade(pairs)
	for name := range c.Routes { // some have names for policies, and backends elsewhere
		if r := w.routes[name.NamespacedName]; name.Kind == "HTTPRoute" && r != nil {
			for i := range r.Spec.Rules {
				if w.random.IntN(2) == 0 {
					r.Spec.Rules[i].Name = new(gatewayv1.SectionName("named"))
				}
				if w.random.IntN(3) == 0 {
					r.Spec.Rules[i].BackendRefs[0].Namespace = new(gatewayv1.Namespace("store"))
				}
			}
		}
	}
	switch w.random.IntN(5) {
	case 0:
		w.accessPolicy()
		c.Policies = true
	case 1:
		w.trafficPolicy()
		c.Policies = true
	case 2:
		key := shopName("keys", w.random.IntN(2))
		if w.keys[key] != nil && w.random.IntN(3) == 0 {
			delete(w.keys, key)
		} else {
			w.keys[key] = &corev1.Secret{ObjectMeta: w.meta(key), Data: map[string][]byte{"someone": fmt.Appendf(nil, "a-long-secret-key-%d", w.version)}}
			w.keys[key].ResourceVersion = fmt.Sprint(w.version)
		}
		c.References = map[Reference]bool{{"Credential", key}: true}
	case 3:
		w.objects.Grants = nil
		if w.random.IntN(2) == 0 {
			w.objects.Grants = []*gatewayv1.ReferenceGrant{{ObjectMeta: w.meta(types.NamespacedName{Namespace: "store", Name: "to-shop"}), Spec: gatewayv1.ReferenceGrantSpec{
				From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Namespace: "shop"}},
				To:   []gatewayv1.ReferenceGrantTo{{Kind: "Service"}},
			}}}
		}
		c.Grants = map[string]bool{"store": true}
	}
	return c
}

func (w *estate) accessPolicy() {
	name := shopName("access", w.random.IntN(4))
	list := slices.DeleteFunc(slices.Clone(w.objects.AccessPolicies), func(p *v1alpha1.AccessPolicy) bool { return p.Name == name.Name })
	if w.random.IntN(3) > 0 {
		p := &v1alpha1.AccessPolicy{ObjectMeta: w.meta(name)}
		p.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName{w.target()}
		if w.random.IntN(3) == 0 {
			p.Namespace, p.Spec.TargetRefs = "edge", []gatewayv1.LocalPolicyTargetReferenceWithSectionName{w.atGateway()}
		}
		p.Spec.Addresses = &v1alpha1.AddressRules{Allow: []string{pick(w.town, "10.0.0.0/8", "192.0.2.1", "nonsense")}}
		if w.random.IntN(2) == 0 {
			p.Spec.Authentication = &v1alpha1.Authentication{APIKeys: &v1alpha1.APIKeys{SecretNames: []string{shopName("keys", w.random.IntN(2)).Name}}}
		}
		p.Spec.Override = w.random.IntN(4) == 0
		list = append(list, p)
	}
	w.objects.AccessPolicies = list
}

func (w *estate) trafficPolicy() {
	name := shopName("traffic", w.random.IntN(3))
	list := slices.DeleteFunc(slices.Clone(w.objects.TrafficPolicies), func(p *v1alpha1.TrafficPolicy) bool { return p.Name == name.Name })
	if w.random.IntN(3) > 0 {
		p := &v1alpha1.TrafficPolicy{ObjectMeta: w.meta(name)}
		p.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName{w.target(), w.target()}
		p.Spec.RateLimits = []v1alpha1.RateLimit{{Name: "rate", Requests: int64(1 + w.random.IntN(3))}}
		list = append(list, p)
	}
	w.objects.TrafficPolicies = list
}

func TestUpdatesOfPoliciesAndGrantsEndWhereAWholeTranslationDoes(t *testing.T) {
	pairs := []map[string][]byte{keyPair(t, "a.example.com")}
	taken, all := 0, 0
	for seed := range uint64(12) {
		w := newEstate(t, seed, pairs)
		translator := New()
		known := bound(translator.Translate(w.now()))
		for step := range 60 {
			change := w.govern(pairs)
			all++
			before, text := known.Table, tableOf(known)
			result, ok := translator.Update(w.now(), change)
			if ok {
				taken++
				result.Adopt(known)
				known = bound(result)
			} else {
				known = bound(translator.Translate(w.now()))
			}
			want := bound(New().Translate(w.now()))
			known.Problems, want.Problems = nil, nil // of what was compiled
			if got, want := dump(known), dump(want); got != want {
				t.Fatalf("seed %d step %d (alone: %v) after %v: got\n%s\nwant\n%s", seed, step, ok, change, got, want)
			}
			if after := tableOf(&Result{Table: before}); after != text {
				t.Fatalf("seed %d step %d: the table before was changed: from\n%s\nto\n%s", seed, step, text, after)
			}
		}
	}
	t.Logf("%d of %d changes were compiled alone", taken, all)
	if taken < all*3/4 {
		t.Errorf("only %d of %d changes were compiled alone", taken, all)
	}
}

// A policy that comes or changes for all routes of a Gateway or Namespace concerns none of them.
func TestPoliciesOfManyRoutesAreOneChange(t *testing.T) {
	o := manyRoutes()
	translator := New()
	translator.Translate(o)
	for i, ref := range []gatewayv1.LocalPolicyTargetReferenceWithSectionName{
		{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{Group: gatewayv1.GroupName, Kind: "Gateway", Name: "default"}},
		{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{Kind: "Namespace", Name: "shop"}},
	} {
		p := &v1alpha1.TrafficPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: []string{"gantry-system", "shop"}[i], Name: "limits"}}
		p.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName{ref}
		p.Spec.RateLimits = []v1alpha1.RateLimit{{Name: "rate", Requests: 7}}
		o.TrafficPolicies = append(o.TrafficPolicies, p)
		result, ok := translator.Update(o.withLookUps(), Change{Policies: true})
		if !ok {
			t.Fatalf("%v: all was compiled", ref)
		}
		result.Table.Demand()
		hit, _ := result.Table.Lookup(80, "host-1.example.com", "GET", "/api/0", nil)
		rules := hit.Rule.Guard.Rules()
		if rules == nil || len(rules.Limits) != 1 || rules.Limits[0].Policy != "TrafficPolicy/"+p.Namespace+"/limits" {
			t.Errorf("after %v: %+v", ref, rules)
		}
	}
}
