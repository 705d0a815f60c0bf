package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding"
	"k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

// localBinding is upstream's plugin VolumeBinding, except that it looks every
// few milliseconds whether the volumes that it asked local volumes for are
// there. Upstream looks once a second, so that every pod with a new claim
// would start a second late, and each replica of a StatefulSet another one.
type localBinding struct{ *volumebinding.VolumeBinding }

const (
	localBindingName = "LocalVolumeBinding"
	localBindingPoll = 5 * time.Millisecond
	// localBindingPatience is how long a directory may take; then the pod is
	// scheduled again.
	localBindingPatience = 30 * time.Second
)

var (
	_ fwk.PreFilterPlugin   = localBinding{}
	_ fwk.FilterPlugin      = localBinding{}
	_ fwk.ReservePlugin     = localBinding{}
	_ fwk.PreBindPlugin     = localBinding{}
	_ fwk.EnqueueExtensions = localBinding{}
)

// Name implements the scheduler's Plugin.
func (localBinding) Name() string { return localBindingName }

func newLocalBinding(ctx context.Context, args apiruntime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p, err := volumebinding.New(ctx, args, h, feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate))
	if err != nil {
		return nil, err
	}
	plugin, ok := p.(*volumebinding.VolumeBinding)
	if !ok {
		return nil, fmt.Errorf("upstream's volume binding is a %T", p)
	}
	informers := h.SharedInformerFactory()
	plugin.Binder = &localBinder{
		SchedulerVolumeBinder: plugin.Binder,
		client:                h.ClientSet(),
		pods:                  informers.Core().V1().Pods().Lister(),
		claims:                informers.Core().V1().PersistentVolumeClaims().Lister(),
		classes:               informers.Storage().V1().StorageClasses().Lister(),
	}
	return localBinding{plugin}, nil
}

// withLocalBinding is upstream's default profile with localBinding in the place
// of VolumeBinding.
func withLocalBinding() ([]scheduler.Option, error) {
	var versioned configv1.KubeSchedulerConfiguration
	scheme.Scheme.Default(&versioned)
	var cfg config.KubeSchedulerConfiguration
	if err := scheme.Scheme.Convert(&versioned, &cfg, nil); err != nil {
		return nil, fmt.Errorf("default profile of the scheduler: %w", err)
	}
	replaced := 0
	for i := range cfg.Profiles {
		enabled := cfg.Profiles[i].Plugins.MultiPoint.Enabled
		for j := range enabled {
			if enabled[j].Name == volumebinding.Name {
				enabled[j].Name = localBindingName
				replaced++
			}
		}
		for j := range cfg.Profiles[i].PluginConfig {
			if cfg.Profiles[i].PluginConfig[j].Name == volumebinding.Name {
				cfg.Profiles[i].PluginConfig[j].Name = localBindingName
				replaced++
			}
		}
	}
	if replaced != 2 {
		return nil, errors.New("default profile of the scheduler: it has no plugin VolumeBinding with its configuration")
	}
	return []scheduler.Option{
		scheduler.WithProfiles(cfg.Profiles...),
		scheduler.WithFrameworkOutOfTreeRegistry(runtime.Registry{localBindingName: newLocalBinding}),
	}, nil
}

// localBinder makes upstream's binder quick for claims of local volumes.
type localBinder struct {
	volumebinding.SchedulerVolumeBinder
	client  kubernetes.Interface
	pods    corelisters.PodLister
	claims  corelisters.PersistentVolumeClaimLister
	classes storagelisters.StorageClassLister
}

// BindPodVolumes asks for the volumes of a pod's claims and returns when they
// are bound. After an error the scheduler undoes what it assumed.
func (b *localBinder) BindPodVolumes(ctx context.Context, pod *corev1.Pod, volumes *volumebinding.PodVolumes) error {
	if !b.allLocal(volumes) {
		return b.SchedulerVolumeBinder.BindPodVolumes(ctx, pod, volumes)
	}
	for _, p := range volumes.DynamicProvisions {
		// The copy that was assumed names the node, which asks for the volume.
		if _, err := b.client.CoreV1().PersistentVolumeClaims(p.PVC.Namespace).Update(ctx, p.PVC, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("ask for volume of claim %s: %w", p.PVC.Name, err)
		}
	}
	err := wait.PollUntilContextTimeout(ctx, localBindingPoll, localBindingPatience, false, func(context.Context) (bool, error) {
		if _, err := b.pods.Pods(pod.Namespace).Get(pod.Name); apierrors.IsNotFound(err) {
			return false, errors.New("the pod does not exist any more")
		}
		for _, p := range volumes.DynamicProvisions {
			claim, err := b.claims.PersistentVolumeClaims(p.PVC.Namespace).Get(p.PVC.Name)
			if err != nil {
				return false, err
			}
			// Upstream looks at the annotation only, but the node asks for the phase.
			if claim.Status.Phase != corev1.ClaimBound || !metav1.HasAnnotation(claim.ObjectMeta, storagehelpers.AnnBindCompleted) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("bind volumes: %w", err)
	}
	return nil
}

// allLocal tells whether all that is left to do for a pod is to make local volumes.
func (b *localBinder) allLocal(volumes *volumebinding.PodVolumes) bool {
	if volumes == nil || len(volumes.StaticBindings) > 0 {
		return false
	}
	for _, p := range volumes.DynamicProvisions {
		class, err := b.classes.Get(storagehelpers.GetPersistentVolumeClaimClass(p.PVC))
		if err != nil || class.Provisioner != localProvisioner {
			return false
		}
	}
	return true
}
