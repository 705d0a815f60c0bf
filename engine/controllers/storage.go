package controllers

import (
	"context"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/volume/ephemeral"
	"k8s.io/kubernetes/pkg/controller/volume/persistentvolume"
	"k8s.io/kubernetes/pkg/controller/volume/pvcprotection"
	"k8s.io/kubernetes/pkg/controller/volume/pvprotection"
)

// newVolumeBinder binds claims to volumes. It has no plugins: volumes are made
// by provisioners, of which local volumes are one.
func newVolumeBinder(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("persistent-volume-binder")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c, err := persistentvolume.NewController(ctx, persistentvolume.ControllerParameters{
		KubeClient:                client,
		SyncPeriod:                15 * time.Second,
		VolumeInformer:            core.PersistentVolumes(),
		ClaimInformer:             core.PersistentVolumeClaims(),
		ClassInformer:             e.informers.Storage().V1().StorageClasses(),
		PodInformer:               core.Pods(),
		NodeInformer:              core.Nodes(),
		EnableDynamicProvisioning: true,
	})
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

func newClaimProtection(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("pvc-protection-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c, err := pvcprotection.NewPVCProtectionController(klog.FromContext(ctx), core.PersistentVolumeClaims(), core.Pods(), client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newVolumeProtection(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("pv-protection-controller")
	if err != nil {
		return nil, err
	}
	c := pvprotection.NewPVProtectionController(klog.FromContext(ctx), e.informers.Core().V1().PersistentVolumes(), client)
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newEphemeralVolume(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("ephemeral-volume-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c, err := ephemeral.NewController(ctx, client, core.Pods(), core.PersistentVolumeClaims())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}
