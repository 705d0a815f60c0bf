package dockerapi

import (
	"context"
	"errors"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// makeNetwork makes what a network is in the Kubernetes API: its record, the policy that
// keeps it apart, and the Service whose endpoints have its containers' names.
func (s *Server) makeNetwork(ctx context.Context, n *networkRecord) error {
	if err := s.saveObject(ctx, "network", networkService(n), n); err != nil {
		return err
	}
	if err := s.makePolicy(ctx, n); err != nil {
		return err
	}
	service := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: networkService(n), Namespace: Namespace, Labels: map[string]string{labelKind: "network"}},
		// The port is nobody's; a Service has one.
		Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone, PublishNotReadyAddresses: true, Ports: []v1.ServicePort{{Name: "any", Port: 1}}},
	}
	_, err := s.client.CoreV1().Services(Namespace).Create(ctx, service, metav1.CreateOptions{})
	return ignore(err, apierrors.IsAlreadyExists)
}

func (s *Server) unmakeNetwork(ctx context.Context, n *networkRecord) error {
	name, now := networkService(n), metav1.DeleteOptions{}
	core := s.client.CoreV1()
	err := errors.Join(
		ignore(s.client.DiscoveryV1().EndpointSlices(Namespace).Delete(ctx, name, now), apierrors.IsNotFound),
		ignore(core.Services(Namespace).Delete(ctx, name, now), apierrors.IsNotFound),
		ignore(s.client.NetworkingV1().NetworkPolicies(Namespace).Delete(ctx, name, now), apierrors.IsNotFound),
		ignore(core.ConfigMaps(Namespace).Delete(ctx, name, now), apierrors.IsNotFound))
	if err == nil {
		s.mu.Lock()
		delete(s.networks, n.ID)
		s.mu.Unlock()
	}
	return err
}

func ignore(err error, is func(error) bool) error {
	if err != nil && is(err) {
		return nil
	}
	return err
}

// makePolicy lets a network's containers be reached by each other, by pods of other
// namespaces and from outside, where host ports lead to; not by other networks' containers.
// An internal one leads nowhere but to itself and to the cluster's DNS.
func (s *Server) makePolicy(ctx context.Context, n *networkRecord) error {
	inside := &metav1.LabelSelector{MatchLabels: map[string]string{labelNetwork + short(n.ID): "true"}}
	others := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: []string{Namespace}}}}
	outside := &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{s.cfg.PodCIDR.String()}}
	ingress := []networkingv1.NetworkPolicyPeer{{PodSelector: inside}}
	egress := []networkingv1.NetworkPolicyEgressRule{{}}
	if n.Internal {
		dns, udp, tcp := intstr.FromInt32(53), v1.ProtocolUDP, v1.ProtocolTCP
		egress = []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{{PodSelector: inside}}},
			{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: &dns}, {Protocol: &tcp, Port: &dns}}},
		}
	} else {
		ingress = append(ingress, networkingv1.NetworkPolicyPeer{NamespaceSelector: others}, networkingv1.NetworkPolicyPeer{IPBlock: outside})
	}
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: networkService(n), Namespace: Namespace, Labels: map[string]string{labelKind: "network"}},
		Spec: networkingv1.NetworkPolicySpec{PodSelector: *inside, Egress: egress,
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: ingress}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
	}
	policies := s.client.NetworkingV1().NetworkPolicies(Namespace)
	_, err := policies.Create(ctx, policy, metav1.CreateOptions{})
	return ignore(err, apierrors.IsAlreadyExists)
}

// namesChanged brings the names of a container's networks up to date.
func (s *Server) namesChanged(ctx context.Context, r *record) {
	for name := range r.Networks {
		if n, err := s.findNetwork(name); err == nil {
			s.publishNames(ctx, n)
		}
	}
}

// publishNames writes which address each name of a network stands for.
func (s *Server) publishNames(ctx context.Context, n *networkRecord) {
	if s.builtIn(n.Name) != nil {
		return
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	if err := s.writeNames(ctx, n); err != nil && ctx.Err() == nil {
		s.log.Warn("publish the names of a docker network", "network", n.Name, "err", err)
	}
}

func (s *Server) writeNames(ctx context.Context, n *networkRecord) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: networkService(n), Namespace: Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: networkService(n), discoveryv1.LabelManagedBy: "docker.gantry.dev"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: s.namedEndpoints(n),
		Ports: []discoveryv1.EndpointPort{{Name: new("any"), Port: new(int32(1)), Protocol: new(v1.ProtocolTCP)}},
	}
	slices := s.client.DiscoveryV1().EndpointSlices(Namespace)
	old, err := slices.Get(ctx, slice.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if s.gone(n) {
			return nil
		}
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
		return err
	}
	if err != nil || sameEndpoints(old.Endpoints, slice.Endpoints) {
		return err
	}
	_, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	return err
}

func (s *Server) gone(n *networkRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.networks[n.ID] == nil
}

func (s *Server) namedEndpoints(n *networkRecord) []discoveryv1.Endpoint {
	ready := true
	endpoints := []discoveryv1.Endpoint{}
	for _, c := range s.all() {
		s.mu.Lock()
		r, pod := c.rec, c.pod
		s.mu.Unlock()
		if r.Networks[n.Name] == nil || pod == nil || pod.Status.PodIP == "" || stateOf(&r, pod).over() {
			continue
		}
		for _, name := range dnsNames(&r, n.Name) {
			name = strings.ToLower(name)
			if len(validation.IsDNS1123Label(name)) == 0 {
				endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{pod.Status.PodIP}, Hostname: &name, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
			}
		}
	}
	return endpoints
}

func sameEndpoints(a, b []discoveryv1.Endpoint) bool {
	key := func(list []discoveryv1.Endpoint) (keys []string) {
		for _, e := range list {
			if e.Hostname != nil && len(e.Addresses) > 0 {
				keys = append(keys, *e.Hostname+" "+e.Addresses[0])
			}
		}
		slices.Sort(keys)
		return keys
	}
	return slices.Equal(key(a), key(b))
}

// dnsNames are the names that a container has in a network.
func dnsNames(r *record, in string) []string {
	names := []string{r.Name, short(r.ID)}
	if r.Config.Hostname != "" {
		names = append(names, r.Config.Hostname)
	}
	if e := r.Networks[in]; e != nil {
		names = append(names, e.Aliases...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
