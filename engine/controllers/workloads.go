package controllers

import (
	"context"
	"maps"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/cronjob"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/disruption"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/kubernetes/pkg/controller/replication"
	"k8s.io/kubernetes/pkg/controller/statefulset"
	"k8s.io/kubernetes/pkg/controller/ttlafterfinished"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
)

// workers is how many objects of one kind are worked on at the same time. API
// calls do not leave the process, so few are enough.
const workers = 4

func newDeployment(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("deployment-controller")
	if err != nil {
		return nil, err
	}
	apps := e.informers.Apps().V1()
	c, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), e.informers.Core().V1().Pods(), client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

func newReplicaSet(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("replicaset-controller")
	if err != nil {
		return nil, err
	}
	pods := pacedPods{e.informers.Core().V1().Pods(), pace{
		haste: replicaSetHaste, shortest: 10 * time.Millisecond, longest: 80 * time.Millisecond, crowded: 160 * time.Millisecond,
	}}
	c := replicaset.NewReplicaSetController(ctx, e.informers.Apps().V1().ReplicaSets(), pods, client, replicaset.BurstReplicas)
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

// replicaSetHaste lets a ReplicaSet know at once when it may have to make a pod
// or has lost one, and in its own time when only numbers in its status change.
func replicaSetHaste(old, cur *corev1.Pod) haste {
	switch {
	case old == nil:
		return whenever // it has made it itself
	case cur == nil:
		if old.DeletionTimestamp == nil {
			return soon
		}
		return whenever // it has been told when that was asked for
	case !maps.Equal(old.Labels, cur.Labels), owner(old) != owner(cur), !finished(old) && finished(cur):
		return now
	case old.DeletionTimestamp == nil && cur.DeletionTimestamp != nil:
		return soon
	case ready(old) != ready(cur):
		return later
	}
	return whenever
}

func owner(pod *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return ref.UID
	}
	return ""
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func newReplication(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("replication-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	// It registers the metrics of the ReplicaSet controller once more, and
	// would complain that they are there.
	ctx = klog.NewContext(ctx, logr.Discard())
	c := replication.NewReplicationManager(ctx, core.Pods(), core.ReplicationControllers(), client, replication.BurstReplicas)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newStatefulSet(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("statefulset-controller")
	if err != nil {
		return nil, err
	}
	core, apps := e.informers.Core().V1(), e.informers.Apps().V1()
	c := statefulset.NewStatefulSetController(ctx, core.Pods(), apps.StatefulSets(), core.PersistentVolumeClaims(), apps.ControllerRevisions(), client)
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

func newDaemonSet(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("daemon-set-controller")
	if err != nil {
		return nil, err
	}
	core, apps := e.informers.Core().V1(), e.informers.Apps().V1()
	c, err := daemon.NewDaemonSetsController(ctx, apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), client,
		flowcontrol.NewBackOff(time.Second, 15*time.Minute))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

func newJob(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("job-controller")
	if err != nil {
		return nil, err
	}
	// The last two informers belong to gang scheduling, which is not enabled.
	c, err := job.NewController(ctx, client, e.informers.Core().V1().Pods(), e.informers.Batch().V1().Jobs(), nil, nil)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, workers) }, nil
}

func newCronJob(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("cronjob-controller")
	if err != nil {
		return nil, err
	}
	batch := e.informers.Batch().V1()
	c, err := cronjob.NewControllerV2(ctx, batch.Jobs(), batch.CronJobs(), client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newTTLAfterFinished(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("ttl-after-finished-controller")
	if err != nil {
		return nil, err
	}
	c := ttlafterfinished.New(ctx, e.informers.Batch().V1().Jobs(), client)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newDisruption(ctx context.Context, e *environment) (run, error) {
	const name = "disruption-controller"
	client, err := e.client(name)
	if err != nil {
		return nil, err
	}
	scales, err := e.scales(name, client.Discovery())
	if err != nil {
		return nil, err
	}
	core, apps := e.informers.Core().V1(), e.informers.Apps().V1()
	c := disruption.NewDisruptionController(ctx, core.Pods(), e.informers.Policy().V1().PodDisruptionBudgets(),
		core.ReplicationControllers(), apps.ReplicaSets(), apps.Deployments(), apps.StatefulSets(),
		client, e.mapper, scales, client.Discovery())
	return c.Run, nil
}

// Upstream's defaults for the autoscaler.
const (
	autoscalerPeriod       = 15 * time.Second
	autoscalerStabilise    = 5 * time.Minute
	autoscalerTolerance    = 0.1
	autoscalerCPUStart     = 5 * time.Minute
	autoscalerReadyAtFirst = 30 * time.Second
)

func newAutoscaler(ctx context.Context, e *environment) (run, error) {
	const name = "horizontal-pod-autoscaler"
	client, err := e.client(name)
	if err != nil {
		return nil, err
	}
	scales, err := e.scales(name, client.Discovery())
	if err != nil {
		return nil, err
	}
	// Metrics APIs are served outside the built-in groups and speak JSON.
	config := e.config(name)
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	resources, err := resourceclient.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	external, err := external_metrics.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	versions := custom_metrics.NewAvailableAPIsGetter(client.Discovery())
	custom := custom_metrics.NewForConfig(config, e.mapper, versions)
	c := podautoscaler.NewHorizontalController(ctx, client.CoreV1(), scales, client.AutoscalingV2(), e.mapper,
		metrics.NewRESTMetricsClient(resources, custom, external),
		e.informers.Autoscaling().V2().HorizontalPodAutoscalers(), e.informers.Core().V1().Pods(),
		autoscalerPeriod, autoscalerStabilise, autoscalerTolerance, autoscalerCPUStart, autoscalerReadyAtFirst)
	return both(
		func(ctx context.Context) {
			custom_metrics.PeriodicallyInvalidate(versions, autoscalerPeriod, ctx.Done())
		},
		func(ctx context.Context) { c.Run(ctx, 2) },
	), nil
}
