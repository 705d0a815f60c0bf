package network

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// publishLoadBalancers reports the node's address as the ingress of every service of
// type LoadBalancer without a class, until ctx ends.
func (n *Network) publishLoadBalancers(ctx context.Context, c *catalog.Catalog) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.Synced():
	}
	tick := time.NewTicker(30 * time.Second) // repeats what failed
	defer tick.Stop()
	for {
		for _, s := range c.All() {
			if !n.lacksIngress(s) {
				continue
			}
			if err := n.setIngress(ctx, s.Key); err != nil && ctx.Err() == nil {
				slog.Warn("load balancer address is not published yet", "service", s.Key.String(), "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.balancers.wake:
			n.balancers.take()
		case <-tick.C:
		}
	}
}

func (n *Network) lacksIngress(s *catalog.Service) bool {
	if !ownsLoadBalancer(s.Spec) {
		return false
	}
	in := s.Status.LoadBalancer.Ingress
	return len(in) != 1 || in[0].IP != n.nodeIP.String()
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
