package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
)

// systemNamespaces exist in every instance.
var systemNamespaces = []string{
	metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault, "gantry-system",
}

// bootstrap writes what every cluster has, where it is missing.
func (s *Server) bootstrap(ctx context.Context) error {
	for _, name := range systemNamespaces {
		if err := s.ensureNamespace(ctx, name); err != nil {
			return err
		}
	}
	if err := s.ensurePolicy(ctx); err != nil {
		return err
	}
	for _, class := range schedulingv1.SystemPriorityClasses() {
		_, err := s.client.SchedulingV1().PriorityClasses().Get(ctx, class.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = s.client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("create priority class %s: %w", class.Name, err)
		}
	}
	if err := s.ensureExtensionAuthentication(ctx); err != nil {
		return err
	}
	return s.ensureKubernetesService(ctx)
}

// extensionAuthentication is where extension servers read how to know their callers, as upstream's
// servers publish it.
const extensionAuthentication = "extension-apiserver-authentication"

func (s *Server) ensureExtensionAuthentication(ctx context.Context) error {
	data := map[string]string{
		"client-ca-file":                     string(s.ca.Bundle()),
		"requestheader-client-ca-file":       string(s.ca.Bundle()),
		"requestheader-allowed-names":        `["` + frontProxy + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	maps := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	present, err := maps.Get(ctx, extensionAuthentication, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: extensionAuthentication}, Data: data}, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(present.Data, data):
		present = present.DeepCopy()
		present.Data = data
		_, err = maps.Update(ctx, present, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish how extension servers know their callers: %w", err)
	}
	return nil
}

func (s *Server) ensureNamespace(ctx context.Context, name string) error {
	namespaces := s.client.CoreV1().Namespaces()
	_, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// ensureKubernetesService makes default/kubernetes lead to this server.
func (s *Server) ensureKubernetesService(ctx context.Context) error {
	address := s.cfg.serviceAddress().String()
	port := int32(s.Addr().(*net.TCPAddr).Port)
	services := s.client.CoreV1().Services(metav1.NamespaceDefault)
	want := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: address,
			Ports:     []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(port)}},
		},
	}
	have, err := services.Get(ctx, want.Name, metav1.GetOptions{})
	if err == nil && have.Spec.ClusterIP != address { // the service range was changed
		err = services.Delete(ctx, want.Name, metav1.DeleteOptions{})
		if err == nil {
			have, err = services.Create(ctx, want, metav1.CreateOptions{})
		}
	} else if err == nil && !equality.Semantic.DeepEqual(have.Spec.Ports, want.Spec.Ports) {
		have.Spec.Ports = want.Spec.Ports
		_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	} else if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, want, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("create service default/kubernetes: %w", err)
	}
	return s.ensureKubernetesEndpoints(ctx, port)
}

// ensureKubernetesEndpoints publishes the address at which pods reach the API. Without one there
// are no endpoints: a loopback address would mean the pod itself.
func (s *Server) ensureKubernetesEndpoints(ctx context.Context, port int32) error {
	address := s.cfg.AdvertiseAddress
	if listen := s.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap(); !address.IsValid() && !listen.IsLoopback() && !listen.IsUnspecified() {
		address = listen
	}
	if !address.IsValid() {
		return nil
	}
	if err := s.ensureEndpointSlice(ctx, address, port); err != nil {
		return fmt.Errorf("create endpoint slice default/kubernetes: %w", err)
	}
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: address.String()}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	endpoints := s.client.CoreV1().Endpoints(metav1.NamespaceDefault)
	have, err := endpoints.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = endpoints.Create(ctx, want, metav1.CreateOptions{})
	} else if err == nil && !equality.Semantic.DeepEqual(have.Subsets, want.Subsets) {
		have.Subsets = want.Subsets
		_, err = endpoints.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("create endpoints default/kubernetes: %w", err)
	}
	return nil
}

func (s *Server) ensureEndpointSlice(ctx context.Context, address netip.Addr, port int32) error {
	ready, name, protocol, family := true, "https", corev1.ProtocolTCP, discoveryv1.AddressTypeIPv4
	if address.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	slices := s.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := slices.Get(ctx, want.Name, metav1.GetOptions{})
	if err == nil && have.AddressType != family { // immutable
		if err = slices.Delete(ctx, want.Name, metav1.DeleteOptions{}); err == nil {
			_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		}
		return err
	}
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return err
	}
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
