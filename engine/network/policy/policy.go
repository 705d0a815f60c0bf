// Package policy turns NetworkPolicies, pods and namespaces into the rules that
// apply to each pod address: the semantics of networking.k8s.io/v1, without I/O.
//
// A pod that at least one policy selects for a direction is isolated in it: what no
// rule of those policies allows is dropped. A connection must be allowed by the
// egress of its source and by the ingress of its destination. Cluster DNS counts as
// the pod that usually serves it, so that policies written for other clusters let
// names be resolved.
//
// Only engine/network imports this package.
package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod is an endpoint of connections.
type Pod struct {
	Namespace string
	Labels    map[string]string
	IP        netip.Addr
	Ports     []corev1.ContainerPort
}

// State is everything the rules depend on.
type State struct {
	Policies   []*networkingv1.NetworkPolicy
	Pods       []Pod
	Namespaces map[string]map[string]string // labels by name
}

// Ruleset is what applies to whom. A pod that is no key is not isolated.
type Ruleset struct {
	Ingress map[netip.Addr]string // name of the group of rules
	Egress  map[netip.Addr]string
	Groups  map[string][]Rule
}

// Rule allows what matches both of its halves.
type Rule struct {
	AnyPeer bool    // whoever is at the other end
	Peers   []Range // disjoint and in order
	AnyPort bool    // and any protocol
	Ports   []Ports // disjoint and in order
	Named   []Port  // resolved named ports
}

// Range is the addresses from First to Last.
type Range struct{ First, Last netip.Addr }

// Ports is a range of destination ports of one protocol.
type Ports struct {
	Protocol    corev1.Protocol
	First, Last uint16
}

// Port is one destination port of one pod.
type Port struct {
	Addr     netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

// Compile computes the rules. A group's name is derived from its rules, so equal
// names mean equal rules.
func Compile(s State) (Ruleset, error) {
	out := Ruleset{Ingress: map[netip.Addr]string{}, Egress: map[netip.Addr]string{}, Groups: map[string][]Rule{}}
	slices.SortFunc(s.Policies, func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(s.Pods, func(a, b Pod) int { return a.IP.Compare(b.IP) })
	in, eg := map[netip.Addr][]Rule{}, map[netip.Addr][]Rule{}
	for _, p := range s.Policies {
		if err := s.compile(p, in, eg); err != nil {
			return Ruleset{}, fmt.Errorf("network policy %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	for _, d := range []struct {
		prefix string
		rules  map[netip.Addr][]Rule
		groups map[netip.Addr]string
	}{{"ingress-", in, out.Ingress}, {"egress-", eg, out.Egress}} {
		for ip, rules := range d.rules {
			name, err := groupName(d.prefix, rules)
			if err != nil {
				return Ruleset{}, err
			}
			d.groups[ip], out.Groups[name] = name, rules
		}
	}
	return out, nil
}

func groupName(prefix string, rules []Rule) (string, error) {
	b, err := json.Marshal(rules)
	if err != nil {
		return "", fmt.Errorf("name policy rules: %w", err)
	}
	sum := sha256.Sum256(b)
	return prefix + hex.EncodeToString(sum[:8]), nil
}

// compile adds the rules of one policy to the pods it selects.
func (s State) compile(p *networkingv1.NetworkPolicy, in, eg map[netip.Addr][]Rule) error {
	selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
	if err != nil {
		return fmt.Errorf("pod selector: %w", err)
	}
	var selected []Pod
	for _, pod := range s.Pods {
		if pod.Namespace == p.Namespace && selector.Matches(labels.Set(pod.Labels)) {
			selected = append(selected, pod)
		}
	}
	add := func(to map[netip.Addr][]Rule, rule Rule) {
		for _, pod := range selected {
			to[pod.IP] = append(to[pod.IP], rule)
		}
	}
	isolate := func(m map[netip.Addr][]Rule) {
		for _, pod := range selected {
			m[pod.IP] = slices.Clip(m[pod.IP]) // an entry without rules lets nothing through
		}
	}
	for _, t := range policyTypes(p) {
		switch t {
		case networkingv1.PolicyTypeIngress:
			isolate(in)
			for i, r := range p.Spec.Ingress {
				rule, err := s.rule(p.Namespace, r.From, r.Ports, selected)
				if err != nil {
					return fmt.Errorf("ingress rule %d: %w", i, err)
				}
				add(in, rule)
			}
		case networkingv1.PolicyTypeEgress:
			isolate(eg)
			for i, r := range p.Spec.Egress {
				rule, err := s.rule(p.Namespace, r.To, r.Ports, s.Pods)
				if err != nil {
					return fmt.Errorf("egress rule %d: %w", i, err)
				}
				add(eg, rule)
			}
		}
	}
	return nil
}

// policyTypes are the directions a policy isolates; the API defaults them, so they
// are only absent in objects that did not come through it.
func policyTypes(p *networkingv1.NetworkPolicy) []networkingv1.PolicyType {
	if len(p.Spec.PolicyTypes) > 0 {
		return p.Spec.PolicyTypes
	}
	types := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		types = append(types, networkingv1.PolicyTypeEgress)
	}
	return types
}

// rule translates peers and ports. Named ports are those of the destinations.
func (s State) rule(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, destinations []Pod) (Rule, error) {
	rule := Rule{AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	for _, peer := range peers {
		ranges, err := s.peer(namespace, peer)
		if err != nil {
			return Rule{}, err
		}
		rule.Peers = append(rule.Peers, ranges...)
	}
	rule.Peers = merge(rule.Peers)
	for _, port := range ports {
		proto := corev1.ProtocolTCP
		if port.Protocol != nil {
			proto = *port.Protocol
		}
		switch {
		case port.Port == nil:
			rule.Ports = append(rule.Ports, Ports{proto, 0, 65535})
		case port.Port.Type == intstr.String:
			rule.Named = append(rule.Named, named(destinations, proto, port.Port.StrVal)...)
		default:
			first := uint16(port.Port.IntVal)
			last := first
			if port.EndPort != nil {
				last = uint16(*port.EndPort)
			}
			rule.Ports = append(rule.Ports, Ports{proto, first, last})
		}
	}
	rule.Ports = mergePorts(rule.Ports)
	return rule, nil
}

func named(pods []Pod, proto corev1.Protocol, name string) []Port {
	var out []Port
	for _, pod := range pods {
		for _, p := range pod.Ports {
			if p.Name == name && cmp.Or(p.Protocol, corev1.ProtocolTCP) == proto {
				out = append(out, Port{pod.IP, proto, uint16(p.ContainerPort)})
			}
		}
	}
	return out
}

// peer returns the addresses of a peer. Without a namespace selector it means pods of
// the policy's own namespace.
func (s State) peer(namespace string, peer networkingv1.NetworkPolicyPeer) ([]Range, error) {
	if peer.IPBlock != nil {
		return block(*peer.IPBlock)
	}
	pods, namespaces := labels.Everything(), labels.Nothing()
	var err error
	if peer.PodSelector != nil {
		if pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return nil, fmt.Errorf("pod selector: %w", err)
		}
	}
	if peer.NamespaceSelector != nil {
		if namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return nil, fmt.Errorf("namespace selector: %w", err)
		}
	}
	var out []Range
	for _, pod := range s.Pods {
		there := pod.Namespace == namespace
		if peer.NamespaceSelector != nil {
			nsLabels, known := s.Namespaces[pod.Namespace]
			there = known && namespaces.Matches(labels.Set(nsLabels))
		}
		if there && pods.Matches(labels.Set(pod.Labels)) {
			out = append(out, Range{pod.IP, pod.IP})
		}
	}
	return out, nil
}

// block is a range of addresses without its exceptions. An IPv6 block matches nothing
// here.
func block(b networkingv1.IPBlock) ([]Range, error) {
	p, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("IP block: %w", err)
	}
	if !p.Addr().Is4() {
		return nil, nil
	}
	var except []Range
	for _, e := range b.Except {
		ep, err := netip.ParsePrefix(e)
		if err != nil {
			return nil, fmt.Errorf("IP block exception: %w", err)
		}
		if ep.Addr().Is4() {
			except = append(except, rangeOf(ep))
		}
	}
	return subtract(rangeOf(p), merge(except)), nil
}
