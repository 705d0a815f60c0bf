package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
)

// Service serves Pipelines and Builds.
type Service struct {
	cfg  Config
	api  *apiclient.Client
	kube kubernetes.Interface
	logs *logs

	pipelines, builds cache.SharedIndexInformer
	changed           chan struct{} // something is to be looked at
	work              sync.WaitGroup

	mu      sync.Mutex
	running map[string]context.CancelCauseFunc // guarded by mu; Builds, by key
	watched map[string]*watched                // guarded by mu; Pipelines, by key
	hooks   *hookServer                        // guarded by mu; nil until the first Pipeline has a webhook
}

// New sets the service up.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	api, err := apiclient.New(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("start pipelines: %w", err)
	}
	kube, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("start pipelines: %w", err)
	}
	s := &Service{
		cfg: cfg, api: api, kube: kube, logs: newLogs(filepath.Join(cfg.Dir, "logs")), changed: make(chan struct{}, 1),
		running: map[string]context.CancelCauseFunc{}, watched: map[string]*watched{},
	}
	s.pipelines = follow(api.Pipelines(""), &v1alpha1.Pipeline{})
	s.builds = follow(api.Builds(""), &v1alpha1.Build{})
	return s, nil
}

// source is the part of a typed client that an informer needs.
type source[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func follow[L runtime.Object](from source[L], example runtime.Object) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return from.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return from.Watch(ctx, o) },
	}, example, 0, cache.Indexers{})
}

// Run works until ctx ends. Builds that then run go on with the next Run.
func (s *Service) Run(ctx context.Context) error {
	defer s.work.Wait()
	for _, i := range []cache.SharedIndexInformer{s.pipelines, s.builds} {
		_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { s.wake() },
			UpdateFunc: func(any, any) { s.wake() },
			DeleteFunc: func(o any) { s.deleted(o) },
		})
		if err != nil {
			return fmt.Errorf("run pipelines: %w", err)
		}
		s.work.Go(func() { i.RunWithContext(ctx) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), s.pipelines.HasSynced, s.builds.HasSynced) {
		return ctx.Err()
	}
	for {
		next := s.step(ctx, time.Now())
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(max(time.Until(next), 10*time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.changed:
		case <-timer:
		}
	}
}

func (s *Service) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // it will look anyway
	}
}

// deleted ends what belongs to an object that is gone.
func (s *Service) deleted(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	switch o := o.(type) {
	case *v1alpha1.Build:
		s.cancel(key(o), errors.New("the Build was deleted"))
		s.logs.remove(o.Namespace, o.Name)
	case *v1alpha1.Pipeline:
		s.mu.Lock()
		delete(s.watched, o.Namespace+"/"+o.Name)
		s.mu.Unlock()
		s.forget(o)
	}
	s.wake()
}

func (s *Service) cancel(build string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop := s.running[build]; stop != nil {
		stop(why)
	}
}

// step does what is due, in the background, and returns when to look again, or zero.
func (s *Service) step(ctx context.Context, now time.Time) (next time.Time) {
	builds := all[*v1alpha1.Build](s.builds)
	s.mu.Lock()
	running := map[string]bool{}
	for k := range s.running {
		running[k] = true
	}
	s.mu.Unlock()
	d := decide(builds, running, s.cfg.Parallel)
	for _, b := range d.cancel {
		if running[key(b)] {
			s.cancel(key(b), errOvertaken)
		} else {
			s.end(ctx, b.DeepCopy(), v1alpha1.BuildCancelled, "Superseded", errOvertaken.Error())
		}
	}
	for _, b := range d.start {
		s.start(ctx, b.DeepCopy())
	}
	for _, p := range all[*v1alpha1.Pipeline](s.pipelines) {
		if at := s.watch(ctx, p, now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

var errOvertaken = errors.New("a newer commit is there")

func all[T any](i cache.SharedIndexInformer) []T {
	objects := i.GetStore().List()
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// pipelineOf returns the Pipeline of a Build, or nil.
func (s *Service) pipelineOf(b *v1alpha1.Build) *v1alpha1.Pipeline {
	o, ok, err := s.pipelines.GetStore().GetByKey(pipelineKey(b))
	if err != nil || !ok {
		return nil
	}
	return o.(*v1alpha1.Pipeline).DeepCopy()
}

// patchBuild writes the status of a Build. Only this service writes it.
func (s *Service) patchBuild(ctx context.Context, b *v1alpha1.Build) error {
	patch, err := json.Marshal(map[string]any{"status": b.Status})
	if err != nil {
		return err
	}
	_, err = s.api.Builds(b.Namespace).Patch(ctx, b.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: User}, "status")
	if err != nil {
		return fmt.Errorf("write the status of build %s: %w", key(b), err)
	}
	return nil
}

func (s *Service) patchPipeline(ctx context.Context, namespace, name string, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = s.api.Pipelines(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: User}, "status")
	if err != nil {
		return fmt.Errorf("write the status of pipeline %s/%s: %w", namespace, name, err)
	}
	return nil
}

// event tells of a Build to who watches events.
func (s *Service) event(ctx context.Context, b *v1alpha1.Build, kind, reason, message string) {
	now := metav1.Now()
	_, err := s.kube.CoreV1().Events(b.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: b.Name + ".", Namespace: b.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Build", Namespace: b.Namespace, Name: b.Name, UID: b.UID,
		},
		Type: kind, Reason: reason, Message: clip(message, 1000), FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: corev1.EventSource{Component: "gantry-pipeline"},
	}, metav1.CreateOptions{})
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("cannot record an event", "build", key(b), "err", err)
	}
}
