package metrics

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/metrics/pkg/apis/metrics"
)

// nodeMetrics is the resource nodes of metrics.k8s.io.
type nodeMetrics struct {
	rest.TableConvertor
	client kubernetes.Interface
	reader *reader
}

// podMetrics is the resource pods of metrics.k8s.io.
type podMetrics struct {
	rest.TableConvertor
	pods   metadata.Interface
	reader *reader
}

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// Both are read-only storages of upstream's API machinery.
var (
	_ rest.Getter               = &nodeMetrics{}
	_ rest.Lister               = &nodeMetrics{}
	_ rest.Scoper               = &nodeMetrics{}
	_ rest.SingularNameProvider = &nodeMetrics{}
	_ rest.KindProvider         = &nodeMetrics{}
	_ rest.Getter               = &podMetrics{}
	_ rest.Lister               = &podMetrics{}
	_ rest.Scoper               = &podMetrics{}
	_ rest.SingularNameProvider = &podMetrics{}
	_ rest.KindProvider         = &podMetrics{}
)

func (*nodeMetrics) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (*nodeMetrics) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (*nodeMetrics) Destroy()                {}
func (*nodeMetrics) Kind() string            { return "NodeMetrics" }
func (*nodeMetrics) NamespaceScoped() bool   { return false }
func (*nodeMetrics) GetSingularName() string { return "" }
func (*podMetrics) New() runtime.Object      { return &metrics.PodMetrics{} }
func (*podMetrics) NewList() runtime.Object  { return &metrics.PodMetricsList{} }
func (*podMetrics) Destroy()                 {}
func (*podMetrics) Kind() string             { return "PodMetrics" }
func (*podMetrics) NamespaceScoped() bool    { return true }
func (*podMetrics) GetSingularName() string  { return "" }

// selection turns the options of a list into those of the list of the objects themselves.
func selection(o *internalversion.ListOptions) metav1.ListOptions {
	to := metav1.ListOptions{ResourceVersion: "0"}
	if o != nil && o.LabelSelector != nil {
		to.LabelSelector = o.LabelSelector.String()
	}
	if o != nil && o.FieldSelector != nil {
		to.FieldSelector = o.FieldSelector.String()
	}
	return to
}

// Get implements rest.Getter.
func (m *nodeMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := m.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	before, after, err := m.reader.get(ctx)
	if err != nil {
		return nil, err
	}
	if found := ofNode(node, before, after); found != nil {
		return found, nil
	}
	return nil, apierrors.NewNotFound(metrics.Resource("nodemetrics"), name)
}

// List implements rest.Lister.
func (m *nodeMetrics) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	nodes, err := m.client.CoreV1().Nodes().List(ctx, selection(o))
	if err != nil {
		return nil, err
	}
	before, after, err := m.reader.get(ctx)
	if err != nil {
		return nil, err
	}
	list := &metrics.NodeMetricsList{Items: []metrics.NodeMetrics{}}
	for i := range nodes.Items {
		if found := ofNode(&nodes.Items[i], before, after); found != nil {
			list.Items = append(list.Items, *found)
		}
	}
	slices.SortFunc(list.Items, func(a, b metrics.NodeMetrics) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func ofNode(node *corev1.Node, before, after *reading) *metrics.NodeMetrics {
	now, ok := after.nodes[node.Name]
	if !ok {
		return nil
	}
	var then point
	known := false
	if before != nil {
		then, known = before.nodes[node.Name]
	}
	u, ok := between(then, now, known)
	if !ok {
		return nil
	}
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, CreationTimestamp: metav1.Now(), Labels: node.Labels},
		Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window.Round(time.Millisecond)}, Usage: u.list(),
	}
}

// Get implements rest.Getter.
func (m *podMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := m.pods.Resource(podResource).Namespace(request.NamespaceValue(ctx)).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	before, after, err := m.reader.get(ctx)
	if err != nil {
		return nil, err
	}
	found := ofPods([]metav1.PartialObjectMetadata{*pod}, before, after)
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("podmetrics"), pod.Namespace+"/"+name)
	}
	return &found[0], nil
}

// List implements rest.Lister.
func (m *podMetrics) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	pods, err := m.pods.Resource(podResource).Namespace(request.NamespaceValue(ctx)).List(ctx, selection(o))
	if err != nil {
		return nil, err
	}
	before, after, err := m.reader.get(ctx)
	if err != nil {
		return nil, err
	}
	return &metrics.PodMetricsList{Items: ofPods(pods.Items, before, after)}, nil
}

// ofPods is what pods use: those of which every container that runs is known.
func ofPods(pods []metav1.PartialObjectMetadata, before, after *reading) []metrics.PodMetrics {
	containers := map[string][]container{} // by pod
	for c := range after.containers {
		containers[c.pod.String()] = append(containers[c.pod.String()], c)
	}
	list := []metrics.PodMetrics{}
	for i := range pods {
		pod := &pods[i]
		found := metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, CreationTimestamp: metav1.Now(), Labels: pod.Labels}}
		of := containers[pod.Namespace+"/"+pod.Name]
		for _, c := range of {
			var then point
			known := false
			if before != nil {
				then, known = before.containers[c]
			}
			u, ok := between(then, after.containers[c], known)
			if !ok {
				continue
			}
			found.Containers = append(found.Containers, metrics.ContainerMetrics{Name: c.name, Usage: u.list()})
			found.Timestamp, found.Window = metav1.NewTime(u.at), metav1.Duration{Duration: u.window.Round(time.Millisecond)}
		}
		if len(of) == 0 || len(found.Containers) < len(of) {
			continue
		}
		slices.SortFunc(found.Containers, func(a, b metrics.ContainerMetrics) int { return cmp.Compare(a.Name, b.Name) })
		list = append(list, found)
	}
	slices.SortFunc(list, func(a, b metrics.PodMetrics) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func (u usage) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(math.Ceil(u.cores*1e9)), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(u.bytes), resource.BinarySI),
	}
}
