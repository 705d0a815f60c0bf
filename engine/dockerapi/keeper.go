package dockerapi

import (
	"context"
	"fmt"
	"strconv"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// The keeper follows the pods of the namespace. What it sees becomes containers' states
// and events; it removes containers that were run with --rm, ends those that failed too
// often, and keeps the names of networks up to date.

// namespace reads the namespace, nil when there is none, or none yet.
func (s *Server) namespace(ctx context.Context) (*v1.Namespace, error) {
	namespace, err := s.client.CoreV1().Namespaces().Get(ctx, Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for namespace %s: %w", Namespace, err)
	}
	return namespace, nil
}

// startKeeper begins to follow the pods and returns when it has seen all there are.
func (s *Server) startKeeper(ctx context.Context) error {
	pods := s.client.CoreV1().Pods(Namespace)
	informer := cache.NewSharedInformer(&cache.ListWatch{
		ListFunc:  func(o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) },
		WatchFunc: func(o metav1.ListOptions) (watch.Interface, error) { return pods.Watch(ctx, o) },
	}, &v1.Pod{}, 0)
	see := func(obj any, gone bool) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if pod, ok := obj.(*v1.Pod); ok {
			s.see(ctx, pod, gone)
		}
	}
	handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { see(obj, false) },
		UpdateFunc: func(_, obj any) { see(obj, false) },
		DeleteFunc: func(obj any) { see(obj, true) },
	})
	if err != nil {
		return fmt.Errorf("follow docker's pods: %w", err)
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
		return unavailable("the engine is stopping")
	}
	for _, c := range s.all() { // what ended, or was deleted, while nobody looked
		s.mu.Lock()
		if c.rec.Pod != "" && c.pod == nil {
			c.rec.Pod = ""
			if c.rec.Last.FinishedAt.IsZero() {
				c.rec.Last = lastRun{ExitCode: 137, FinishedAt: time.Now()}
			}
		}
		s.mu.Unlock()
		if st := s.current(c); st.over() && s.recordOf(c).HostConfig.AutoRemove {
			go s.autoRemove(ctx, c)
		}
	}
	return nil
}

// see takes in what became of a pod.
func (s *Server) see(ctx context.Context, pod *v1.Pod, gone bool) {
	s.mu.Lock()
	c := s.ownerOf(pod)
	if c == nil || c.rec.Pod != pod.Name {
		s.mu.Unlock()
		return
	}
	before := stateOf(&c.rec, c.pod)
	if gone {
		final := stateOf(&c.rec, pod)
		if !final.over() && final.status != types.StateCreated { // deleted by another door
			final.run.FinishedAt = time.Now()
			if final.running() {
				final.run.ExitCode = 137
			}
		}
		c.rec.Last, c.rec.Pod, c.pod = final.run, "", nil
	} else {
		c.pod = pod
	}
	after := stateOf(&c.rec, c.pod)
	r := c.rec
	health := ""
	if hasHealthcheck(&r) && after.running() {
		health = string(healthOf(&r, after, time.Now()))
	}
	if after.paused() { // who stands still cannot answer its check
		health = c.health
	}
	healthChanged := health != "" && c.health != "" && health != c.health
	c.health = health
	c.wake()
	s.mu.Unlock()

	if gone {
		go func() {
			if err := s.save(ctx, c); err != nil && ctx.Err() == nil {
				s.log.Warn("docker", "err", err)
			}
		}()
	}
	s.tell(&r, before, after)
	if healthChanged {
		s.containerEvent(&r, events.Action("health_status: "+health), nil)
	}
	s.followUp(ctx, c, &r, after)
	s.namesChanged(ctx, &r)
	if gone || after.over() && !before.over() {
		s.unsharePorts(ctx, &r)
	}
}

// ownerOf finds the container of a pod. Holds s.mu.
func (s *Server) ownerOf(pod *v1.Pod) *container {
	id := pod.Labels[labelID]
	if id == "" {
		return nil
	}
	for full, c := range s.containers {
		if full[:32] == id {
			return c
		}
	}
	return nil
}

// tell turns a change of state into events.
func (s *Server) tell(r *record, before, after state) {
	restarted := after.running() && before.running() && after.run.Restarts > before.run.Restarts
	unseen := before.status == types.StateCreated && !after.running() && !after.run.StartedAt.IsZero() // over before we saw it run
	if unseen {
		s.containerEvent(r, events.ActionStart, nil)
	}
	if before.running() && !after.running() || restarted || !before.over() && after.over() && !after.run.FinishedAt.IsZero() {
		s.containerEvent(r, events.ActionDie, map[string]string{
			"exitCode": strconv.Itoa(after.run.ExitCode), "execDuration": strconv.Itoa(int(after.run.FinishedAt.Sub(after.run.StartedAt).Seconds()))})
		if after.run.OOMKilled {
			s.containerEvent(r, events.ActionOOM, nil)
		}
	}
	if after.running() && (!before.running() || restarted) {
		s.containerEvent(r, events.ActionStart, nil)
	}
}

// followUp does what a container's end asks for.
func (s *Server) followUp(ctx context.Context, c *container, r *record, st state) {
	policy := r.HostConfig.RestartPolicy
	switch {
	case st.over() && r.HostConfig.AutoRemove:
		go s.autoRemove(ctx, c)
	case st.status == types.StateRestarting && policy.IsOnFailure() && policy.MaximumRetryCount > 0 && st.run.Restarts >= policy.MaximumRetryCount:
		go func() {
			if err := s.endPod(ctx, r.Pod); err != nil && ctx.Err() == nil {
				s.log.Warn("end a container that failed too often", "container", r.Name, "err", err)
			}
		}()
	}
}

// readPatience is how long a container that has ended waits for those who read its output.
const readPatience = 10 * time.Second

func (s *Server) autoRemove(ctx context.Context, c *container) {
	reading, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	for {
		s.mu.Lock()
		readers, changed := c.readers, c.changed
		s.mu.Unlock()
		if readers == 0 {
			break
		}
		select {
		case <-changed:
			continue
		case <-reading.Done():
		}
		break
	}
	if err := s.remove(ctx, c, removeOptions{volumes: true}); err != nil && ctx.Err() == nil {
		s.log.Warn("remove a container that was run with --rm", "container", s.recordOf(c).Name, "err", err)
	}
}

// endPod has a pod end for good, whatever its restart policy, and stay to be looked at.
func (s *Server) endPod(ctx context.Context, pod string) error {
	patch := []byte(`{"spec":{"activeDeadlineSeconds":1}}`)
	_, err := s.client.CoreV1().Pods(Namespace).Patch(ctx, pod, "application/merge-patch+json", patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// await waits until cond holds for a container, and returns the state that it held for.
func (s *Server) await(ctx context.Context, c *container, cond func(st state, gone bool) bool) (state, error) {
	for {
		s.mu.Lock()
		st, gone, changed := stateOf(&c.rec, c.pod), c.gone, c.changed
		s.mu.Unlock()
		if cond(st, gone) {
			return st, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}
