package controllers

import (
	"context"
	"runtime"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

// newScheduler runs upstream's scheduler with its default profile, in which
// local volumes are bound more quickly (localBinding). Its pod
// informer is its own, because it leaves out finished pods and changes what it
// holds; all other kinds it shares with the controllers.
func newScheduler(ctx context.Context, e *environment) (run, error) {
	client, err := e.client(componentScheduler)
	if err != nil {
		return nil, err
	}
	own := scheduler.NewInformerFactory(client, 0)
	share(e.informers, own)
	e.private = append(e.private, own)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	options, err := withLocalBinding()
	if err != nil {
		return nil, err
	}
	// There is one node to look at, so searching it in parallel gains nothing;
	// the number also bounds concurrent writes of bindings.
	options = append(options, scheduler.WithParallelism(int32(4*runtime.GOMAXPROCS(0))))
	s, err := scheduler.New(ctx, client, own, nil, profile.NewRecorderFactory(broadcaster), options...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		defer broadcaster.Shutdown()
		if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "events of the scheduler will not be recorded")
		}
		if s.WaitForHandlersSync(ctx) == nil {
			s.Run(ctx)
		}
	}, nil
}

// share makes to use from's informers for the kinds that the scheduler reads
// besides pods.
func share(from, to informers.SharedInformerFactory) {
	core, apps, storage, resource := from.Core().V1(), from.Apps().V1(), from.Storage().V1(), from.Resource().V1()
	for _, s := range []struct {
		object   apiruntime.Object
		informer func() cache.SharedIndexInformer
	}{
		{&corev1.Node{}, core.Nodes().Informer},
		{&corev1.Namespace{}, core.Namespaces().Informer},
		{&corev1.Service{}, core.Services().Informer},
		{&corev1.ReplicationController{}, core.ReplicationControllers().Informer},
		{&corev1.PersistentVolume{}, core.PersistentVolumes().Informer},
		{&corev1.PersistentVolumeClaim{}, core.PersistentVolumeClaims().Informer},
		{&appsv1.ReplicaSet{}, apps.ReplicaSets().Informer},
		{&appsv1.StatefulSet{}, apps.StatefulSets().Informer},
		{&policyv1.PodDisruptionBudget{}, from.Policy().V1().PodDisruptionBudgets().Informer},
		{&storagev1.StorageClass{}, storage.StorageClasses().Informer},
		{&storagev1.CSINode{}, storage.CSINodes().Informer},
		{&storagev1.CSIDriver{}, storage.CSIDrivers().Informer},
		{&storagev1.CSIStorageCapacity{}, storage.CSIStorageCapacities().Informer},
		{&storagev1.VolumeAttachment{}, storage.VolumeAttachments().Informer},
		{&resourcev1.ResourceClaim{}, resource.ResourceClaims().Informer},
		{&resourcev1.ResourceSlice{}, resource.ResourceSlices().Informer},
		{&resourcev1.DeviceClass{}, resource.DeviceClasses().Informer},
	} {
		informer := running{s.informer()}
		to.InformerFor(s.object, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer { return informer })
	}
}

// running is an informer that another factory runs.
type running struct{ cache.SharedIndexInformer }

// Run does nothing.
func (running) Run(<-chan struct{}) {}

// RunWithContext does nothing.
func (running) RunWithContext(context.Context) {}
