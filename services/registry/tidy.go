package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	tidyInterval = 6 * time.Hour
	tidyAge      = 24 * time.Hour // untagged manifests younger than this stay
)

// KeepTidy collects every few hours until ctx ends, sparing what any workload
// of the cluster names by digest: `gantry up` deploys by digest, and a rollback
// needs the images of former revisions.
func (r *Registry) KeepTidy(ctx context.Context, cluster kubernetes.Interface) error {
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		got, err := r.tidy(ctx, cluster, tidyAge)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.log.Warn("registry", "err", err) // the next round tries again
		case got.Manifests+got.Blobs > 0:
			r.log.Info("registry collected", "manifests", got.Manifests, "blobs", got.Blobs, "bytes", got.Bytes)
		}
	}
}

func (r *Registry) tidy(ctx context.Context, cluster kubernetes.Interface, age time.Duration) (Collected, error) {
	used, err := InUse(ctx, cluster)
	if err != nil {
		// Without the list nothing may go.
		return Collected{}, fmt.Errorf("list deployed images: %w", err)
	}
	return r.Collect(ctx, CollectOptions{UntaggedFor: age, InUse: used})
}

// InUse tells what any workload of the cluster runs or names by digest.
func InUse(ctx context.Context, cluster kubernetes.Interface) (func(repository string, d digest.Digest) bool, error) {
	used, err := deployed(ctx, cluster)
	if err != nil {
		return nil, err
	}
	return func(repository string, d digest.Digest) bool { return used[repository+"@"+d.String()] }, nil
}

// images is a set of "repository@digest", without registry hosts: one registry
// has several names (127.0.0.1, localhost), and sparing too much does no harm.
type images map[string]bool

func (i images) add(name string) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return // not an image name: an ID, or nothing yet
	}
	if pinned, ok := named.(reference.Digested); ok {
		i[reference.Path(named)+"@"+pinned.Digest().String()] = true
	}
}

func (i images) addSpec(spec *corev1.PodSpec) {
	for _, c := range spec.InitContainers {
		i.add(c.Image)
	}
	for _, c := range spec.Containers {
		i.add(c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			i.add(v.Image.Reference)
		}
	}
}

// deployed is what any pod runs, or any template would run.
func deployed(ctx context.Context, cluster kubernetes.Interface) (images, error) {
	used := images{}
	all := metav1.NamespaceAll
	pods, err := cluster.CoreV1().Pods(all).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		used.addSpec(&pods.Items[i].Spec)
		status := &pods.Items[i].Status
		for _, s := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
			used.add(s.ImageID)
		}
	}
	apps := cluster.AppsV1()
	lists := []func() error{
		listTemplates(ctx, apps.Deployments(all).List, func(l *appsv1.DeploymentList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.Template.Spec)
			}
		}),
		listTemplates(ctx, apps.ReplicaSets(all).List, func(l *appsv1.ReplicaSetList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.Template.Spec)
			}
		}),
		listTemplates(ctx, apps.StatefulSets(all).List, func(l *appsv1.StatefulSetList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.Template.Spec)
			}
		}),
		listTemplates(ctx, apps.DaemonSets(all).List, func(l *appsv1.DaemonSetList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.Template.Spec)
			}
		}),
		listTemplates(ctx, cluster.BatchV1().Jobs(all).List, func(l *batchv1.JobList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.Template.Spec)
			}
		}),
		listTemplates(ctx, cluster.BatchV1().CronJobs(all).List, func(l *batchv1.CronJobList) {
			for i := range l.Items {
				used.addSpec(&l.Items[i].Spec.JobTemplate.Spec.Template.Spec)
			}
		}),
	}
	for _, list := range lists {
		if err := list(); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// listTemplates binds the listing of one kind to what is done with its items.
func listTemplates[L any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), use func(L)) func() error {
	return func() error {
		l, err := list(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		use(l)
		return nil
	}
}
