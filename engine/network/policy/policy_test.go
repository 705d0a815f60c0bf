package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// world has two namespaces with two pods each.
func world(t *testing.T, manifests ...string) State {
	t.Helper()
	pod := func(ns, app, ip string, ports ...corev1.ContainerPort) Pod {
		return Pod{Namespace: ns, Labels: map[string]string{"app": app}, IP: netip.MustParseAddr(ip), Ports: ports}
	}
	s := State{
		Pods: []Pod{
			pod("shop", "web", "10.0.0.1", corev1.ContainerPort{Name: "http", ContainerPort: 8080}),
			pod("shop", "db", "10.0.0.2", corev1.ContainerPort{Name: "sql", ContainerPort: 5432}),
			pod("ops", "web", "10.0.0.3", corev1.ContainerPort{Name: "http", ContainerPort: 9090}),
			pod("ops", "probe", "10.0.0.4"),
		},
		Namespaces: map[string]map[string]string{"shop": {"team": "shop"}, "ops": {"team": "ops"}},
	}
	for _, m := range manifests {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("p", len(s.Policies))}}
		if err := yaml.UnmarshalStrict([]byte(m), &p.Spec); err != nil {
			t.Fatal(err)
		}
		s.Policies = append(s.Policies, p)
	}
	return s
}

// describe writes the rules of one pod in one direction, "open" when it is not
// isolated.
func describe(r Ruleset, groups map[netip.Addr]string, ip string) string {
	group, isolated := groups[netip.MustParseAddr(ip)]
	if !isolated {
		return "open"
	}
	var out []string
	for _, rule := range r.Groups[group] {
		who := "any"
		if !rule.AnyPeer {
			var peers []string
			for _, p := range rule.Peers {
				if p.First == p.Last {
					peers = append(peers, p.First.String())
				} else {
					peers = append(peers, p.First.String()+"-"+p.Last.String())
				}
			}
			who = strings.Join(peers, ",")
		}
		what := "any"
		if !rule.AnyPort {
			var ports []string
			for _, p := range rule.Ports {
				ports = append(ports, fmt.Sprintf("%s/%d-%d", p.Protocol, p.First, p.Last))
			}
			for _, p := range rule.Named {
				ports = append(ports, fmt.Sprintf("%s %s/%d", p.Addr, p.Protocol, p.Port))
			}
			what = strings.Join(ports, ",")
		}
		out = append(out, who+" : "+what)
	}
	return "only " + strings.Join(out, " | ")
}

func TestCompile(t *testing.T) {
	for _, tc := range []struct {
		name       string
		policies   []string
		webIngress string
		webEgress  string
		dbIngress  string
	}{
		{"no policy", nil, "open", "open", "open"},
		{"deny all ingress", []string{`{podSelector: {}, policyTypes: [Ingress]}`}, "only ", "open", "only "},
		{"deny both for one", []string{`{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}`}, "only ", "only ", "open"},
		{"allow all", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`}, "only any : any", "open", "only any : any"},
		{"types by default", []string{`{podSelector: {matchLabels: {app: web}}, egress: [{}]}`}, "only ", "only any : any", "open"},
		{
			"pods of the own namespace",
			[]string{`{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}`},
			"open", "open", "only 10.0.0.1 : TCP/5432-5432",
		},
		{
			"all pods of chosen namespaces",
			[]string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`},
			"open", "open", "only 10.0.0.3-10.0.0.4 : any",
		},
		{
			"chosen pods of all namespaces",
			[]string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}`},
			"open", "open", "only 10.0.0.1,10.0.0.3 : any",
		},
		{
			"either of two peers",
			[]string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: web}}}]}]}`},
			"open", "open", "only 10.0.0.1,10.0.0.3-10.0.0.4 : any",
		},
		{
			"address block with exceptions",
			[]string{`{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.168.0.0/16, except: [192.168.1.0/24, 192.168.255.0/24]}}]}]}`},
			"open", "only 192.168.0.0-192.168.0.255,192.168.2.0-192.168.254.255 : any", "open",
		},
		{
			"the whole world but one network",
			[]string{`{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}]}]}`},
			"open", "only 0.0.0.0-169.253.255.255,169.255.0.0-255.255.255.255 : any", "open",
		},
		{
			"port ranges and protocols",
			[]string{`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 100, endPort: 200}, {port: 150, endPort: 300}, {protocol: UDP, port: 53}, {protocol: SCTP}]}]}`},
			"open", "open", "only any : SCTP/0-65535,TCP/100-300,UDP/53-53",
		},
		{
			"a named port is the destination's",
			[]string{`{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: http}]}], egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}`},
			"only any : 10.0.0.1 TCP/8080", "only 10.0.0.1-10.0.0.4 : 10.0.0.1 TCP/8080,10.0.0.3 TCP/9090", "open",
		},
		{
			"a peer that nobody is",
			[]string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]}`},
			"open", "open", "only  : any",
		},
		{
			"policies add up",
			[]string{`{podSelector: {}, policyTypes: [Ingress]}`, `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}`},
			"only ", "open", "only any : TCP/5432-5432",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := Compile(world(t, tc.policies...))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ what, got, want string }{
				{"web ingress", describe(r, r.Ingress, "10.0.0.1"), tc.webIngress},
				{"web egress", describe(r, r.Egress, "10.0.0.1"), tc.webEgress},
				{"db ingress", describe(r, r.Ingress, "10.0.0.2"), tc.dbIngress},
				{"other namespace", describe(r, r.Ingress, "10.0.0.3"), "open"},
			} {
				if c.got != c.want {
					t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
				}
			}
		})
	}
}

func TestEqualRulesShareAGroup(t *testing.T) {
	a, err := Compile(world(t, `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Groups) != 1 {
		t.Errorf("%d groups for two pods with the same policies", len(a.Groups))
	}
	w := world(t, `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`)
	slices.Reverse(w.Pods)
	b, err := Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	for name := range a.Groups {
		if _, ok := b.Groups[name]; !ok {
			t.Error("the order of pods changed a group's name")
		}
	}
}

func TestBrokenPolicyIsNamed(t *testing.T) {
	_, err := Compile(world(t, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]}`))
	if err == nil || !strings.Contains(err.Error(), "shop/p0") {
		t.Fatalf("got %v", err)
	}
}
