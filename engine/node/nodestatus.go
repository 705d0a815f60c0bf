package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeVersion is the version of the API whose behaviour the node follows.
const kubeVersion = "v1.36.4"

// maxImagesReported bounds the list in the Node object, as upstream.
const maxImagesReported = 50

// register makes the Node object exist with a current status. It tries until the
// API answers.
func (n *Node) register(ctx context.Context) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := n.updateStatus(ctx)
		if err == nil {
			err = n.removeFormerSelves(ctx)
		}
		if err == nil {
			return n.renewLease(ctx)
		}
		n.log.Debug("register node", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("register node: %w", err)
		case <-time.After(wait):
		}
	}
}

// removeFormerSelves deletes the Node objects of other names: there is one node
// here, and the machine was renamed. Pods would be scheduled onto them and wait
// for ever; those that were are collected and made anew.
func (n *Node) removeFormerSelves(ctx context.Context) error {
	nodes, err := n.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, former := range nodes.Items {
		if former.Name == n.cfg.NodeName {
			continue
		}
		n.log.Info("this machine has a new name; its former node is removed", "former", former.Name, "name", n.cfg.NodeName)
		if err := n.client.CoreV1().Nodes().Delete(ctx, former.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// keepStatus refreshes the Node object from time to time and when told.
func (n *Node) keepStatus(ctx context.Context) {
	t := time.NewTicker(nodeStatusEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-n.statusDue:
		}
		if err := n.updateStatus(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("update node status", "error", err)
		}
	}
}

// imagesChanged has the list of images in the Node object refreshed.
func (n *Node) imagesChanged() {
	select {
	case n.statusDue <- struct{}{}:
	default:
	}
}

func (n *Node) updateStatus(ctx context.Context) error {
	nodes := n.client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		node, err = nodes.Create(ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.NodeName, Labels: n.labels()}}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	node = node.DeepCopy()
	if labels, taints := n.labels(), withPressureTaints(node.Spec.Taints, n.currentPressure()); !contains(node.Labels, labels) || !sameTaints(node.Spec.Taints, taints) {
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		maps.Copy(node.Labels, labels)
		node.Spec.Taints = taints
		if node, err = nodes.Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("label and taint node: %w", err)
		}
		node = node.DeepCopy()
	}
	old := node.Status.DeepCopy()
	n.fillStatus(ctx, &node.Status)
	if equality.Semantic.DeepEqual(old, &node.Status) {
		return nil
	}
	if _, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update node status: %w", err)
	}
	return nil
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// sameTaints compares what keeps pods away; when a taint was added matters only
// to taints that are not of pressure.
func sameTaints(a, b []v1.Taint) bool {
	return slices.EqualFunc(a, b, func(x, y v1.Taint) bool { return x.MatchTaint(&y) && x.Value == y.Value })
}

func (n *Node) currentPressure() pressure {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pressure
}

func (n *Node) labels() map[string]string {
	l := map[string]string{
		v1.LabelHostname:                        n.cfg.NodeName,
		v1.LabelOSStable:                        goruntime.GOOS,
		v1.LabelArchStable:                      goruntime.GOARCH,
		"beta.kubernetes.io/os":                 goruntime.GOOS,
		"beta.kubernetes.io/arch":               goruntime.GOARCH,
		"node-role.kubernetes.io/control-plane": "",
	}
	maps.Copy(l, n.cfg.Labels)
	return l
}

func (n *Node) fillStatus(ctx context.Context, s *v1.NodeStatus) {
	s.Addresses = []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: n.cfg.NodeIP.String()},
		{Type: v1.NodeHostName, Address: n.cfg.NodeName},
	}
	s.Capacity, s.Allocatable = n.capacity(), n.allocatable()
	s.NodeInfo = v1.NodeSystemInfo{
		MachineID: n.host.MachineID, SystemUUID: n.host.SystemUUID, BootID: n.host.BootID,
		KernelVersion: n.host.KernelVersion, OSImage: n.host.OSImage,
		ContainerRuntimeVersion: containerScheme + cmp.Or(n.cfg.Version, "dev"),
		KubeletVersion:          kubeVersion,
		OperatingSystem:         goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = 10250
	yes := true
	s.RuntimeHandlers = []v1.NodeRuntimeHandler{{Name: "", Features: handlerFeatures(n.cfg.DefaultHandler)}}
	for _, h := range n.cfg.Handlers {
		s.RuntimeHandlers = append(s.RuntimeHandlers, v1.NodeRuntimeHandler{Name: h, Features: handlerFeatures(h)})
	}
	s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &yes}
	s.Images = n.imageList(ctx)
	p := n.currentPressure()
	now := metav1.Now()
	setNodeCondition(s, now, v1.NodeMemoryPressure, p.memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has %s memory available")
	setNodeCondition(s, now, v1.NodeDiskPressure, p.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has %s disk space available")
	setNodeCondition(s, now, v1.NodePIDPressure, p.pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has %s PID available")
	setCondition(s, now, v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"})
}

func handlerFeatures(handler string) *v1.NodeRuntimeHandlerFeatures {
	users := handler == userNSHandler
	return &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(bool), UserNamespaces: &users}
}

func setNodeCondition(s *v1.NodeStatus, now metav1.Time, kind v1.NodeConditionType, bad bool, badReason, goodReason, message string) {
	c := v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: goodReason, Message: fmt.Sprintf(message, "sufficient")}
	if bad {
		c.Status, c.Reason, c.Message = v1.ConditionTrue, badReason, fmt.Sprintf(message, "insufficient")
	}
	setCondition(s, now, c)
}

func setCondition(s *v1.NodeStatus, now metav1.Time, c v1.NodeCondition) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i := range s.Conditions {
		if s.Conditions[i].Type == c.Type {
			if s.Conditions[i].Status == c.Status {
				c.LastTransitionTime = s.Conditions[i].LastTransitionTime
			}
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

func (n *Node) capacity() v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(n.host.CPUs), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(n.host.MemoryBytes, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(int64(n.cfg.MaxPods), resource.DecimalSI),
	}
	if d, err := diskOf(n.cfg.DataDir); err == nil {
		list[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(d.Total), resource.BinarySI)
	}
	for size, total := range n.host.Hugepages {
		name := v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
		list[name] = *resource.NewQuantity(total, resource.BinarySI)
	}
	return list
}

// allocatable is the capacity less what must stay free for the machine itself.
func (n *Node) allocatable() v1.ResourceList {
	list := n.capacity()
	huge := int64(0)
	for _, total := range n.host.Hugepages {
		huge += total
	}
	list[v1.ResourceMemory] = *resource.NewQuantity(max(n.host.MemoryBytes-memoryReserve-huge, 0), resource.BinarySI)
	if q, ok := list[v1.ResourceEphemeralStorage]; ok {
		total := uint64(q.Value())
		list[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(total-n.cfg.DiskFree.of(total)), resource.BinarySI)
	}
	return list
}

func (n *Node) imageList(ctx context.Context) []v1.ContainerImage {
	images, err := n.cfg.Images.List(ctx)
	if err != nil {
		n.log.Warn("list images", "error", err)
		return nil
	}
	byDigest := map[string]*v1.ContainerImage{}
	for _, img := range images {
		e := byDigest[img.Digest]
		if e == nil {
			e = &v1.ContainerImage{SizeBytes: img.Size}
			byDigest[img.Digest] = e
		}
		for _, name := range []string{img.Name, img.RepoDigest()} {
			if !slices.Contains(e.Names, name) {
				e.Names = append(e.Names, name)
			}
		}
	}
	list := make([]v1.ContainerImage, 0, len(byDigest))
	for _, e := range byDigest {
		slices.Sort(e.Names)
		list = append(list, *e)
	}
	slices.SortFunc(list, func(a, b v1.ContainerImage) int {
		if a.SizeBytes != b.SizeBytes {
			return int(b.SizeBytes - a.SizeBytes)
		}
		return strings.Compare(a.Names[0], b.Names[0])
	})
	return list[:min(len(list), maxImagesReported)]
}

// keepLease renews the node's lease, by which others see that it lives.
func (n *Node) keepLease(ctx context.Context) {
	t := time.NewTicker(leaseEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := n.renewLease(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("renew node lease", "error", err)
			}
		}
	}
}

func (n *Node) renewLease(ctx context.Context) error {
	leases := n.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	seconds, now := int32(leaseDuration/time.Second), metav1.NowMicro()
	spec := coordinationv1.LeaseSpec{HolderIdentity: &n.cfg.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}
	l, err := leases.Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.NodeName, Namespace: v1.NamespaceNodeLease}, Spec: spec}, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) { // the namespace is made by the API server a moment later
			return nil
		}
	} else if err == nil {
		l = l.DeepCopy()
		l.Spec = spec
		_, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}
