package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
)

// localVolumes makes a directory of this machine for each claim of its
// storage classes, and removes it again as the reclaim policy says.
//
// Watches: PersistentVolumeClaims, PersistentVolumes, StorageClasses.
// Writes:  PersistentVolumes, the status of claims, events, the StorageClass
// gantry-local at start, directories below DataDir/volumes named after volumes.
type localVolumes struct {
	client   kubernetes.Interface
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	classes  storagelisters.StorageClassLister
	dir      *volumeDir
	queue    workqueue.TypedRateLimitingInterface[cache.ObjectName] // a volume has no namespace
	events   record.EventBroadcaster
	recorder record.EventRecorder
}

const (
	localClass       = "gantry-local"
	localProvisioner = "gantry.dev/local"
	// Upstream's conventions for provisioners outside the volume binder.
	selectedNodeAnnotation = "volume.kubernetes.io/selected-node"
	defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"
)

func newLocalVolumes(ctx context.Context, e *environment) (run, error) {
	client, err := e.client(componentVolumes)
	if err != nil {
		return nil, err
	}
	dir, err := openVolumeDir(e.volumesDir())
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c := &localVolumes{
		client:  client,
		claims:  core.PersistentVolumeClaims().Lister(),
		volumes: core.PersistentVolumes().Lister(),
		classes: e.informers.Storage().V1().StorageClasses().Lister(),
		dir:     dir,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
		events:  record.NewBroadcaster(record.WithContext(ctx)),
	}
	c.recorder = c.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: localProvisioner})
	enqueue := cache.ResourceEventHandlerFuncs{
		AddFunc:    c.enqueue,
		UpdateFunc: func(_, obj any) { c.enqueue(obj) },
		DeleteFunc: c.enqueue,
	}
	for _, informer := range []cache.SharedIndexInformer{core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer()} {
		if _, err := informer.AddEventHandler(enqueue); err != nil {
			return nil, err
		}
	}
	// A claim may be waiting for its class.
	_, err = e.informers.Storage().V1().StorageClasses().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.enqueueClaims() },
	})
	return c.run, err
}

func (c *localVolumes) enqueue(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
		c.queue.Add(name)
	}
}

func (c *localVolumes) enqueueClaims() {
	claims, _ := c.claims.List(everything)
	for _, claim := range claims {
		c.enqueue(claim)
	}
}

func (c *localVolumes) run(ctx context.Context) {
	defer c.dir.close()
	c.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	defer c.events.Shutdown()
	c.ensureClass(ctx)
	c.removeStrays(ctx)
	serveQueue(ctx, c.queue, 1, c.sync)
}

// sync takes one step for a claim, or for a volume, which has no namespace.
func (c *localVolumes) sync(ctx context.Context, name cache.ObjectName) error {
	step := c.syncClaim
	if name.Namespace == "" {
		step = c.syncVolume
	}
	err := step(ctx, name)
	if err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "local volume; trying again", "object", name)
	}
	return err
}

// ensureClass makes the default class once. Later changes by an administrator,
// such as making another class the default, stay.
func (c *localVolumes) ensureClass(ctx context.Context) {
	mode, reclaim, expand := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: localClass, Annotations: map[string]string{
			defaultClassAnnotation:      "true",
			"kubernetes.io/description": "Directories of this machine, below the data directory of Gantry.",
		}},
		Provisioner:          localProvisioner,
		ReclaimPolicy:        &reclaim,
		VolumeBindingMode:    &mode,
		AllowVolumeExpansion: &expand,
	}
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 1000, Cap: time.Minute}
	_ = wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		_, err := c.client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			return true, nil
		}
		klog.FromContext(ctx).Error(err, "create default storage class; trying again", "class", localClass)
		return false, nil
	})
}

// removeStrays removes the empty directories that a stop between making a
// directory and writing its volume left behind. Directories with content are
// never strays: they are kept for a human to look at.
func (c *localVolumes) removeStrays(ctx context.Context) {
	names, err := c.dir.names()
	if err != nil {
		klog.FromContext(ctx).Error(err, "look for stray volume directories")
		return
	}
	for _, name := range names {
		if _, err := c.volumes.Get(name); apierrors.IsNotFound(err) {
			if c.dir.removeEmpty(name) != nil {
				klog.FromContext(ctx).Error(nil, "directory belongs to no volume and is kept, because it is not empty", "directory", c.dir.path(name))
			}
		}
	}
}

// syncClaim takes one step for a claim: makes its volume, or grows it.
func (c *localVolumes) syncClaim(ctx context.Context, name cache.ObjectName) error {
	claim, err := c.claims.PersistentVolumeClaims(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	class, ours, err := c.classOf(claim)
	if err != nil || !ours || claim.DeletionTimestamp != nil {
		return err
	}
	if claim.Spec.VolumeName != "" {
		return c.grow(ctx, claim, class)
	}
	if class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer &&
		claim.Annotations[selectedNodeAnnotation] == "" {
		return nil // the scheduler says when a pod needs it
	}
	return c.provision(ctx, claim, class)
}

func (c *localVolumes) classOf(claim *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, bool, error) {
	name := storagehelpers.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return nil, false, nil
	}
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return class, class.Provisioner == localProvisioner, nil
}

// provision makes the directory and then the volume, both named after the
// claim's UID, so that repeating it after a crash makes nothing twice.
func (c *localVolumes) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if reason := refuse(claim); reason != "" {
		c.recorder.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", reason)
		return nil // nothing changes before the claim does
	}
	volume := volumeFor(claim, class, c.dir)
	if _, err := c.volumes.Get(volume.Name); err == nil {
		return nil
	}
	if err := c.dir.make(volume.Name); err != nil {
		c.recorder.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
		return err
	}
	_, err := c.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		c.recorder.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
		return fmt.Errorf("create volume %s: %w", volume.Name, err)
	}
	c.recorder.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Made volume %s in %s", volume.Name, c.dir.path(volume.Name))
	return nil
}

// refuse says why a claim cannot be satisfied by a directory, or "".
func refuse(claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Spec.Selector != nil:
		return "a claim with a selector asks for an existing volume: remove the selector, or create a volume that matches"
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "local volumes are directories: use volumeMode Filesystem"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "local volumes start empty: remove dataSource"
	}
	return ""
}

// grow follows a claim that asks for more. Directories are not limited in
// size, so capacity is only a number.
func (c *localVolumes) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	have, bound := claim.Status.Capacity[corev1.ResourceStorage]
	if !bound || want.Cmp(have) <= 0 || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return nil
	}
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil || volume.Annotations[storagehelpers.AnnDynamicallyProvisioned] != localProvisioner {
		return ignoreNotFound(err)
	}
	if size := volume.Spec.Capacity[corev1.ResourceStorage]; size.Cmp(want) < 0 {
		volume = volume.DeepCopy()
		volume.Spec.Capacity[corev1.ResourceStorage] = want
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("grow volume %s: %w", volume.Name, err)
		}
	}
	claim = claim.DeepCopy()
	claim.Status.Capacity[corev1.ResourceStorage] = want
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("report size of claim: %w", err)
	}
	return nil
}

// syncVolume takes one step for a volume that is no longer needed.
func (c *localVolumes) syncVolume(ctx context.Context, name cache.ObjectName) error {
	volume, err := c.volumes.Get(name.Name)
	if err != nil {
		return ignoreNotFound(err)
	}
	switch nextVolumeStep(volume) {
	case deleteVolume:
		if err := c.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{
			Preconditions: metav1.NewUIDPreconditions(string(volume.UID)),
		}); err != nil {
			return ignoreNotFound(err)
		}
	case removeDirectory:
		if err := c.dir.remove(volume.Name); err != nil {
			c.recorder.Event(volume, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return err
		}
		return c.release(ctx, volume)
	case keepDirectory:
		return c.release(ctx, volume)
	}
	return nil
}

// release lets a deleted volume go.
func (c *localVolumes) release(ctx context.Context, volume *corev1.PersistentVolume) error {
	volume = volume.DeepCopy()
	volume.Finalizers = without(volume.Finalizers, storagehelpers.PVDeletionProtectionFinalizer)
	_, err := c.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{})
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// openVolumeDir opens the directory of all volumes, making it if need be.
func openVolumeDir(path string) (*volumeDir, error) {
	// Others on this machine must not reach the volumes, which are writable
	// for every user so that containers of any user can use them.
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of volumes: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory of volumes: %w", err)
	}
	return &volumeDir{root: root}, nil
}

var errName = errors.New("not the name of a volume directory")
