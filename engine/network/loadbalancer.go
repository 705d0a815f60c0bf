package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

func serviceOwner(k catalog.Key) string { return "service " + k.String() }

// loadBalancerFrontends are the service's ports at every address of the host.
func loadBalancerFrontends(spec *corev1.ServiceSpec) []nat.Frontend {
	if !ownsLoadBalancer(spec) {
		return nil
	}
	var out []nat.Frontend
	for _, port := range spec.Ports {
		if proto, err := nat.ProtocolOf(port.Protocol); err == nil {
			out = append(out, nat.Frontend{Protocol: proto, Port: uint16(port.Port)})
		}
	}
	return out
}

// withoutTakenPorts removes from what a service wants the ports at which a process of the
// host listens, such as the API's or the gateway's, and external addresses that are not
// external: whoever may make services could take over what others send there.
func (n *Network) withoutTakenPorts(s *catalog.Service, want map[nat.Frontend]nat.Target) error {
	if s == nil {
		return nil
	}
	var errs []error
	refuse := func(f nat.Frontend, what string, err error) {
		delete(want, f)
		errs = append(errs, fmt.Errorf("%s: %w", what, err))
	}
	for _, f := range loadBalancerFrontends(s.Spec) {
		if n.proxy.has(serviceOwner(s.Key), f) {
			continue
		}
		if err := portFree(f); err != nil {
			refuse(f, "load balancer port", err)
		}
	}
	for f := range want {
		if !f.Addr.IsValid() || f.Addr.String() == s.Spec.ClusterIP {
			continue
		}
		if err := n.foreign(f); err != nil {
			refuse(f, "external address", err)
		}
	}
	return errors.Join(errs...)
}

// foreign returns why a frontend's address belongs to somebody else, or nil.
func (n *Network) foreign(f nat.Frontend) error {
	if n.plan.PodCIDR.Contains(f.Addr) || n.plan.ServiceCIDR.Contains(f.Addr) {
		return fmt.Errorf("%s: the address belongs to pods or services: choose one outside %s and %s", f, n.plan.PodCIDR, n.plan.ServiceCIDR)
	}
	return portFree(f)
}

// publishLoadBalancers reports the node's address as the ingress of every service of
// type LoadBalancer without a class that has its ports, until ctx ends. The others are
// tried again.
func (n *Network) publishLoadBalancers(ctx context.Context, c *catalog.Catalog) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.Synced():
	}
	tick := time.NewTicker(retryLoadBalancers)
	defer tick.Stop()
	for {
		retry := false
		select {
		case <-ctx.Done():
			return nil
		case <-n.balancers.wake:
			n.balancers.take()
		case <-tick.C:
			retry = true
		}
		for _, s := range c.All() {
			if !n.lacksIngress(s) {
				continue
			}
			if !n.hasPorts(s) {
				if retry {
					n.dirty.add(s.Key)
				}
				continue
			}
			if err := n.setIngress(ctx, s.Key); err != nil && ctx.Err() == nil {
				slog.Warn("load balancer address is not published yet", "service", s.Key.String(), "err", err)
			}
		}
	}
}

const retryLoadBalancers = 10 * time.Second

func (n *Network) lacksIngress(s *catalog.Service) bool {
	if !ownsLoadBalancer(s.Spec) {
		return false
	}
	in := s.Status.LoadBalancer.Ingress
	return len(in) != 1 || in[0].IP != n.nodeIP.String()
}

func (n *Network) hasPorts(s *catalog.Service) bool {
	for _, f := range loadBalancerFrontends(s.Spec) {
		if !n.proxy.has(serviceOwner(s.Key), f) {
			return false
		}
	}
	return true
}

func (n *Network) setIngress(ctx context.Context, k catalog.Key) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": corev1.LoadBalancerStatus{
		Ingress: []corev1.LoadBalancerIngress{{IP: n.nodeIP.String()}},
	}}})
	if err != nil {
		return fmt.Errorf("encode load balancer status: %w", err)
	}
	_, err = n.client.CoreV1().Services(k.Namespace).Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("publish address of service %s: %w", k, err)
	}
	return nil
}
