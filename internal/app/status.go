package app

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	resourcehelper "k8s.io/component-helpers/resource"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/internal/platform"
)

// Status is what runs and on what.
type Status struct {
	Applications []ApplicationStatus `json:"applications"`
	Nodes        []NodeStatus        `json:"nodes"`
}

// ApplicationStatus is one application that gantry up deployed.
type ApplicationStatus struct {
	Name      string           `json:"name"`
	Namespace string           `json:"namespace"`
	Source    string           `json:"source"`
	Workloads []WorkloadStatus `json:"workloads"`
	URLs      []string         `json:"urls"`
}

// WorkloadStatus is one Deployment, StatefulSet, DaemonSet, Job or Pod.
type WorkloadStatus struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Ready int32  `json:"ready"`
	Want  int32  `json:"want"`
	State string `json:"state"` // ready, waiting, failed, absent
}

// NodeStatus is one machine.
type NodeStatus struct {
	Name         string            `json:"name"`
	Ready        bool              `json:"ready"`
	Pods         int               `json:"pods"`
	CPU          resource.Quantity `json:"cpu"`             // allocatable
	CPUAsked     resource.Quantity `json:"cpuRequested"`    // by pods
	Memory       resource.Quantity `json:"memory"`          // allocatable
	MemoryAsked  resource.Quantity `json:"memoryRequested"` // by pods
	PodsCapacity int64             `json:"podsCapacity"`
}

// ReadStatus lists the applications and the machines.
func ReadStatus(ctx context.Context, cfg *rest.Config) (*Status, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	records, err := c.kube.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{LabelSelector: recordLabel})
	if err != nil {
		return nil, fmt.Errorf("list applications: %w", explainConnection(err))
	}
	status := &Status{Applications: []ApplicationStatus{}, Nodes: []NodeStatus{}}
	for _, cm := range records.Items {
		r, err := parseRecord(&cm)
		if err != nil {
			return nil, err
		}
		a := ApplicationStatus{Name: r.Name, Namespace: cm.Namespace, Source: r.Source, Workloads: []WorkloadStatus{}}
		for _, ref := range r.Objects {
			w, ok, err := c.workloadStatus(ctx, ref)
			if err != nil {
				return nil, err
			}
			if ok {
				a.Workloads = append(a.Workloads, w)
			}
		}
		if a.URLs, err = c.urls(ctx, cm.Namespace); err != nil {
			return nil, err
		}
		status.Applications = append(status.Applications, a)
	}
	slices.SortFunc(status.Applications, func(a, b ApplicationStatus) int { return cmp.Compare(a.Namespace, b.Namespace) })
	status.Nodes, err = c.nodes(ctx)
	return status, err
}

func (c *cluster) workloadStatus(ctx context.Context, ref objectRef) (WorkloadStatus, bool, error) {
	w := WorkloadStatus{Kind: ref.Kind, Name: ref.Name, State: "absent"}
	o := &Object{Unstructured: ref.object()}
	if !waitable(o) || ref.Kind == "CustomResourceDefinition" { // Services are shown by their URLs
		return w, false, nil
	}
	client, err := c.client(o.Unstructured, ref.Namespace)
	if err != nil {
		return w, false, err
	}
	u, err := client.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return w, true, nil
	}
	if err != nil {
		return w, false, fmt.Errorf("read %s: %w", ref, err)
	}
	now, err := observe(u)
	if err != nil {
		return w, false, fmt.Errorf("read %s: %w", ref, err)
	}
	w.Ready, w.Want, w.State = now.ready, now.wanted, "waiting"
	switch {
	case now.failed != "":
		w.State = "failed"
	case now.reached >= awaitReady:
		w.State = "ready"
	}
	return w, true, nil
}

func (c *cluster) nodes(ctx context.Context) ([]NodeStatus, error) {
	list, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	pods, err := c.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	out := []NodeStatus{}
	for _, node := range list.Items {
		n := NodeStatus{
			Name: node.Name, CPU: *node.Status.Allocatable.Cpu(), Memory: *node.Status.Allocatable.Memory(),
			PodsCapacity: node.Status.Allocatable.Pods().Value(),
		}
		for _, cond := range node.Status.Conditions {
			n.Ready = n.Ready || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
		}
		for _, pod := range pods.Items {
			if pod.Spec.NodeName != node.Name || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
				continue
			}
			n.Pods++
			asked := resourcehelper.PodRequests(&pod, resourcehelper.PodResourcesOptions{})
			n.CPUAsked.Add(*asked.Cpu())
			n.MemoryAsked.Add(*asked.Memory())
		}
		out = append(out, n)
	}
	return out, nil
}

// urls are the addresses under which people reach the application: its routes
// through the gateway, and its load-balanced ports.
func (c *cluster) urls(ctx context.Context, namespace string) ([]string, error) {
	urls := []string{}
	gateway, err := c.gateway(ctx)
	if err != nil {
		return nil, err
	}
	kind := gatewayv1.SchemeGroupVersion.WithKind("HTTPRoute")
	routes := &unstructured.Unstructured{}
	routes.SetGroupVersionKind(kind)
	if client, err := c.client(routes, namespace); err == nil && gateway != nil {
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("list routes of %s: %w", namespace, err)
		}
		if list != nil {
			for _, item := range list.Items {
				hosts, _, _ := unstructured.NestedStringSlice(item.Object, "spec", "hostnames")
				for _, host := range hosts {
					urls = append(urls, gateway.url(host))
				}
			}
		}
	}
	services, err := c.kube.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services of %s: %w", namespace, err)
	}
	for _, s := range services.Items {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		for _, p := range s.Spec.Ports {
			urls = append(urls, fmt.Sprintf("%s://%s", strings.ToLower(string(p.Protocol)), net.JoinHostPort("localhost", strconv.Itoa(int(p.Port)))))
		}
	}
	// What a browser opens first, the shortest name before its variants.
	other := func(u string) int { return map[bool]int{false: 1}[strings.HasPrefix(u, "http")] }
	slices.SortStableFunc(urls, func(a, b string) int {
		return cmp.Or(cmp.Compare(other(a), other(b)), cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return urls, nil
}

// frontDoor is where the default Gateway listens, as host:port of plain HTTP.
type frontDoor struct{ port string }

func (f *frontDoor) url(host string) string {
	if f.port != "80" {
		host = net.JoinHostPort(host, f.port)
	}
	return (&url.URL{Scheme: "http", Host: host, Path: "/"}).String()
}

// gateway returns nil when the cluster has no Gantry, or one without a gateway.
func (c *cluster) gateway(ctx context.Context) (*frontDoor, error) {
	info, err := platform.Read(ctx, c.kube)
	if apierrors.IsNotFound(err) || err == nil && info.Gateway == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(info.Gateway)
	if err != nil {
		return nil, fmt.Errorf("the gateway's address %q: %w", info.Gateway, err)
	}
	return &frontDoor{port: port}, nil
}
