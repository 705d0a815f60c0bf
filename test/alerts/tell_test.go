package alerts

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/services/monitor/objects"
)

// watch lets the monitor scrape the world, as services/monitor scrapes a Gantry.
func watch(m *monitor, w *world) {
	kube := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	custom := dynamicinformer.NewDynamicSharedInformerFactory(dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), 0)
	state := objects.New(kube, custom)
	m.add(&target{labels: []string{"job", "kube-state-metrics", "instance", "kube-state-metrics"}, interval: 10, tell: func(p *page) {
		w.fill(kube, custom)
		exposed(state, p)
	}})
	m.add(&target{labels: []string{"job", "kubelet", "instance", nodeName, "node", nodeName, "metrics_path", "/metrics/cadvisor"}, interval: 10, tell: w.tellContainers})
	m.add(&target{labels: []string{"job", "kubelet", "instance", nodeName, "node", nodeName, "metrics_path", "/metrics"}, interval: 10, tell: w.tellKubelet})
	m.add(&target{labels: []string{"job", "node-exporter", "instance", nodeName}, interval: 10, tell: w.tellMachine})
	m.add(&target{labels: []string{"job", "apiserver", "instance", "kubernetes"}, interval: 10, tell: w.tellProcess})
	m.add(&target{labels: []string{"job", "gateway", "instance", "gateway"}, interval: 5, tell: w.tellGateway})
	for _, k := range w.workloads {
		if !k.scraped {
			continue
		}
		taken := map[*pod]bool{}
		for range 8 { // as many pods as there may be at once
			var of *pod
			t := &target{interval: 10, tell: func(p *page) { p.put("http_requests_total", of.cpu*100, "code", "200") }}
			t.state = func() targetState {
				if of == nil || !slices.Contains(k.pods, of) {
					delete(taken, of)
					of = nil
					for _, p := range k.pods {
						if of == nil && p.running && p.deleted == 0 && !taken[p] {
							of = p
							taken[p] = true
						}
					}
					return gone // the new one is scraped the next time
				}
				t.labels = []string{"job", "kubernetes-pods", "instance", fmt.Sprintf("10.244.0.%d:8080", of.number+2), "namespace", k.namespace, "pod", of.name, "node", nodeName}
				if !of.running || of.deleted > 0 {
					return refuses
				}
				return of.silent
			}
			m.add(t)
		}
	}
}

func replace[T any](store cache.Store, list []T) {
	all := make([]any, len(list))
	for i := range list {
		all[i] = list[i]
	}
	_ = store.Replace(all, "")
}

func time1(second int) metav1.Time { return metav1.NewTime(at(second)) }

// fill makes the API's objects of the world.
func (w *world) fill(kube informers.SharedInformerFactory, custom dynamicinformer.DynamicSharedInformerFactory) {
	var pods []*corev1.Pod
	var deployments []*appsv1.Deployment
	var sets []*appsv1.StatefulSet
	var jobs []*batchv1.Job
	for _, k := range w.workloads {
		meta := metav1.ObjectMeta{Namespace: k.namespace, Name: k.name, CreationTimestamp: time1(k.created), Generation: int64(k.generation)}
		active, ready, updated := int32(0), int32(0), int32(0)
		for _, p := range k.pods {
			pods = append(pods, w.podObject(p))
			if p.deleted > 0 {
				continue
			}
			active++
			if p.ready {
				ready++
			}
			if p.generation == k.generation {
				updated++
			}
		}
		wanted := int32(k.replicas)
		switch k.kind {
		case "Deployment":
			progressing := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"}
			if k.stuck {
				progressing.Status, progressing.Reason = corev1.ConditionFalse, "ProgressDeadlineExceeded"
			}
			deployments = append(deployments, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &wanted}, Status: appsv1.DeploymentStatus{
				ObservedGeneration: int64(k.generation), Replicas: active, ReadyReplicas: ready, AvailableReplicas: ready, UpdatedReplicas: updated,
				UnavailableReplicas: max(0, wanted-ready), Conditions: []appsv1.DeploymentCondition{progressing},
			}})
		case "StatefulSet":
			sets = append(sets, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &wanted},
				Status: appsv1.StatefulSetStatus{Replicas: active, ReadyReplicas: ready, AvailableReplicas: ready, CurrentReplicas: active, UpdatedReplicas: updated}})
		case "Job":
			j := &batchv1.Job{ObjectMeta: meta, Status: batchv1.JobStatus{Active: 1}}
			if k.owner != "" {
				yes := true
				j.OwnerReferences = []metav1.OwnerReference{{Kind: "CronJob", Name: k.owner, Controller: &yes}}
			}
			if k.done {
				j.Status = batchv1.JobStatus{Succeeded: 1, Conditions: []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}}
			} else if k.failed {
				j.Status = batchv1.JobStatus{Failed: 1, Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}}
			}
			jobs = append(jobs, j)
		}
	}
	replace(kube.Core().V1().Pods().Informer().GetStore(), pods)
	replace(kube.Apps().V1().Deployments().Informer().GetStore(), deployments)
	replace(kube.Apps().V1().StatefulSets().Informer().GetStore(), sets)
	replace(kube.Batch().V1().Jobs().Informer().GetStore(), jobs)
	replace(kube.Core().V1().Nodes().Informer().GetStore(), []*corev1.Node{w.nodeObject()})
	var claims []*corev1.PersistentVolumeClaim
	for _, c := range w.claims {
		claims = append(claims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name},
			Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: *resource.NewQuantity(int64(c.size), resource.BinarySI)}}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
	}
	replace(kube.Core().V1().PersistentVolumeClaims().Informer().GetStore(), claims)
	var builds []*unstructured.Unstructured
	for _, b := range w.builds {
		builds = append(builds, &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"namespace": b.namespace, "name": fmt.Sprintf("%s-%d", b.pipeline, b.number)},
			"spec":     map[string]any{"pipeline": b.pipeline, "number": int64(b.number)},
			"status":   map[string]any{"phase": b.phase, "reason": b.reason},
		}})
	}
	var declared []*unstructured.Unstructured
	for _, r := range w.routes {
		of := strings.Split(r.name, "/")
		declared = append(declared, &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": of[1], "name": of[2],
			"annotations": map[string]any{objects.AnnotationAvailability: r.availability, objects.AnnotationLatency: r.within}}}})
	}
	replace(custom.ForResource(objects.Routes[0]).Informer().GetStore(), declared)
	replace(custom.ForResource(objects.Builds).Informer().GetStore(), builds)
}

func (w *world) podObject(p *pod) *corev1.Pod {
	yes := true
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.w.namespace, Name: p.name, UID: types.UID(p.uid), CreationTimestamp: time1(p.created)},
		Spec:       corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: p.w.name}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "10.0.0.1", PodIP: "10.244.0.9"},
	}
	kind, name := "ReplicaSet", fmt.Sprintf("%s-%x", p.w.name, 0x6d4b0+p.generation)
	if p.w.kind != "Deployment" {
		kind, name = p.w.kind, p.w.name
	}
	o.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
	if p.deleted > 0 {
		deleted := time1(p.deleted)
		o.DeletionTimestamp = &deleted
	}
	condition := func(kind corev1.PodConditionType, is bool) {
		status := corev1.ConditionFalse
		if is {
			status = corev1.ConditionTrue
		}
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: kind, Status: status})
	}
	condition(corev1.PodScheduled, !p.unschedulable)
	if p.unschedulable {
		o.Spec.NodeName, o.Status.Phase, o.Status.PodIP = "", corev1.PodPending, ""
		return o
	}
	condition(corev1.PodReady, p.ready)
	started := time1(p.created)
	o.Status.StartTime = &started
	s := corev1.ContainerStatus{Name: p.w.name, Ready: p.ready, RestartCount: int32(p.restarts), Image: "127.0.0.1:5000/shop/" + p.w.name + ":1"}
	if p.lastEnded != "" && p.restarts > 0 {
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: p.lastEnded, ExitCode: 1}
	}
	switch {
	case p.running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: time1(p.started)}
	case p.waiting != "":
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: p.waiting}
		if p.restarts == 0 {
			o.Status.Phase = corev1.PodPending
		}
	default:
		s.State.Terminated = &corev1.ContainerStateTerminated{Reason: p.ended}
		switch {
		case p.w.done:
			o.Status.Phase = corev1.PodSucceeded
		case p.w.failed:
			o.Status.Phase = corev1.PodFailed
		}
	}
	o.Status.ContainerStatuses = []corev1.ContainerStatus{s}
	return o
}

func (w *world) nodeObject() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	for _, c := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		status := corev1.ConditionFalse
		if string(c) == w.machine.pressure || c == corev1.NodeReady && !w.machine.notReady {
			status = corev1.ConditionTrue
		}
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: status})
	}
	return n
}

// tellContainers is the kubelet's /metrics/cadvisor.
func (w *world) tellContainers(to *page) {
	for _, k := range w.workloads {
		for _, p := range k.pods {
			if !p.running {
				continue
			}
			id := p.uid + "-" + strconv.Itoa(p.runs)
			labels := []string{"container", k.name, "id", "/kubepods/pod" + p.uid + "/" + id, "image", "127.0.0.1:5000/shop/" + k.name + ":1", "name", id, "namespace", k.namespace, "pod", p.name}
			put := func(name string, v float64) { to.put(name, v, labels...) }
			to.put("container_cpu_usage_seconds_total", p.cpu, append([]string{"cpu", "total"}, labels...)...)
			if k.cores > 0 {
				put("container_cpu_cfs_periods_total", p.periods)
				put("container_cpu_cfs_throttled_periods_total", math.Round(p.throttled))
				put("container_cpu_cfs_throttled_seconds_total", p.held)
			}
			put("container_memory_working_set_bytes", p.rss*1.05)
			put("container_memory_rss", p.rss)
			put("container_oom_events_total", float64(p.oom))
			put("container_start_time_seconds", w0(p.started))
			put("container_spec_memory_limit_bytes", k.memory)
		}
	}
}

// tellKubelet is the kubelet's /metrics.
func (w *world) tellKubelet(to *page) {
	for _, c := range w.claims {
		put := func(name string, v float64) {
			to.put("kubelet_volume_stats_"+name, v, "namespace", c.namespace, "persistentvolumeclaim", c.name)
		}
		put("capacity_bytes", w.machine.disk)
		put("available_bytes", w.machine.avail)
		put("used_bytes", max(0, c.used))
	}
	for _, k := range w.workloads {
		for _, p := range k.pods {
			for result, n := range map[string]int{"successful": p.goodProbes, "failed": p.failedProbes} {
				to.put("prober_probe_total", float64(n), "container", k.name, "namespace", k.namespace, "pod", p.name, "pod_uid", p.uid, "probe_type", "Readiness", "result", result)
			}
		}
	}
}

// tellMachine is the node's /metrics/node.
func (w *world) tellMachine(to *page) {
	m := &w.machine
	fs := []string{"device", "/dev/vda1", "fstype", "ext4", "mountpoint", "/"}
	readOnly := 0.0
	if m.readOnly {
		readOnly = 1
	}
	to.put("node_filesystem_size_bytes", m.disk, fs...)
	to.put("node_filesystem_avail_bytes", m.avail, fs...)
	to.put("node_filesystem_free_bytes", m.avail, fs...)
	to.put("node_filesystem_files", 1e7, fs...)
	to.put("node_filesystem_files_free", 8e6, fs...)
	to.put("node_filesystem_readonly", readOnly, fs...)
	to.put("node_memory_MemTotal_bytes", m.memory)
	to.put("node_memory_MemAvailable_bytes", m.free*w.jitter(0.05))
	to.put("node_cpu_seconds_total", m.cpu, "cpu", "0", "mode", "user")
	synchronised, most := 0.0, 16.0
	if m.synchronised {
		synchronised, most = 1, 0.02
	}
	to.put("node_timex_sync_status", synchronised)
	to.put("node_timex_maxerror_seconds", most)
	to.put("node_timex_offset_seconds", m.offset+0.0004*w.random.NormFloat64())
	if m.stepped > 0 {
		to.put("gantry_node_clock_step_seconds", m.step)
		to.put("gantry_node_clock_step_timestamp_seconds", m.stepped)
	}
}

// tellProcess is the /metrics of gantry serve.
func (w *world) tellProcess(to *page) {
	to.put("process_start_time_seconds", w.process)
	to.put("gantry_backup_last_success_timestamp_seconds", w.backup)
	for zone, d := range w.dns {
		to.put("coredns_dns_responses_total", math.Floor(d.answered), "zone", zone, "rcode", "NOERROR")
		to.put("coredns_dns_responses_total", math.Floor(d.failed), "zone", zone, "rcode", "SERVFAIL")
	}
	for r, at := range w.refused {
		to.put("gantry_trust_last_refusal_timestamp_seconds", at, "policy", r[0], "namespace", r[1], "image", r[2])
	}
	w.tellCertificates(to, true)
}

func (w *world) tellCertificates(to *page, files bool) {
	for _, c := range w.certs {
		labels := []string{"secret_namespace", c.namespace, "secret_name", c.secret, "subject_CN", c.secret}
		if c.file != "" {
			labels = []string{"filename", c.file, "subject_CN", "gantry"}
		}
		if files == (c.file != "") {
			to.put("x509_cert_not_before", c.from, labels...)
			to.put("x509_cert_not_after", c.until, labels...)
		}
	}
}

// tellGateway is the gateway's /metrics.
func (w *world) tellGateway(to *page) {
	for _, r := range w.routes {
		for code, n := range r.codes {
			to.put("gantry_gateway_requests_total", n, "route", r.name, "code", code)
		}
		sum := 0.0
		for i, n := range r.buckets {
			sum += n
			le := "+Inf"
			if i < len(bounds) {
				le = strconv.FormatFloat(bounds[i], 'g', -1, 64)
			}
			to.put("gantry_gateway_request_duration_seconds_bucket", sum, "route", r.name, "le", le)
		}
		to.put("gantry_gateway_request_duration_seconds_count", r.count, "route", r.name)
		to.put("gantry_gateway_request_duration_seconds_sum", r.sum, "route", r.name)
	}
	w.tellCertificates(to, false)
}
