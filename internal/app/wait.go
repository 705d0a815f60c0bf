package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
)

// portPatience is how long one machine may take to open a published port. It is
// milliseconds, unless somebody else just left it.
const portPatience = 15 * time.Second

var errNotReady = errors.New("not ready in time")

// condition is how far a workload has come.
type condition struct {
	ready, wanted int32
	reached       await  // the strongest state that holds
	failed        string // why it will never get there, or ""
	selector      map[string]string
	judge         bool // pods of the wanted template exist, so the newest pod tells how it goes
}

// waiter waits for workloads and says why one does not get ready.
type waiter struct {
	*cluster
	namespace string
	display   *progress.Display
	tasks     map[*Object]*progress.Task // shown so far
	oneHost   bool                       // the cluster is this machine
}

// wait returns when each object has reached what want says of it.
func (w *waiter) wait(ctx context.Context, objects []*Object, want func(*Object) await) error {
	pending := slices.DeleteFunc(slices.Clone(objects), func(o *Object) bool {
		return !waitable(o) || want(o) == awaitNothing
	})
	began := time.Now()
	var last map[*Object]condition
	for {
		last = map[*Object]condition{}
		var still []*Object
		for _, o := range pending {
			now, err := w.look(ctx, o)
			if err != nil {
				return w.explain(ctx, pending, last, err)
			}
			last[o] = now
			if o.GetKind() == "Service" && now.reached < want(o) && w.oneHost && time.Since(began) > portPatience {
				now.failed = "a port could not be opened: does another program on this machine listen on " + portList(o) + "?"
			}
			if now.failed == "" && now.reached < want(o) && now.judge {
				now.failed, err = w.hopeless(ctx, o, now.selector)
				if err != nil {
					return err
				}
			}
			if now.failed == "" && now.reached < want(o) && !now.judge {
				now.failed = w.refused(ctx, o, began)
			}
			w.show(o, now)
			if now.failed != "" {
				return w.failure(ctx, o, now, now.failed)
			}
			if now.reached < want(o) {
				still = append(still, o)
			}
		}
		if pending = still; len(pending) == 0 {
			return nil
		}
		if err := pause(ctx, pollInterval); err != nil {
			return w.explain(ctx, pending, last, err)
		}
	}
}

func (w *waiter) show(o *Object, now condition) {
	if o.GetKind() == "CustomResourceDefinition" {
		return
	}
	task := w.tasks[o]
	if task == nil {
		task = w.display.Task(o.String())
		w.tasks[o] = task
	}
	task.Count(int64(now.ready), int64(now.wanted))
	switch {
	case now.failed != "":
		task.Fail("%s", now.failed)
	case now.reached == awaitComplete && o.GetKind() == "Job":
		task.Done("completed")
	case now.reached >= awaitReady:
		task.Done("%d/%d ready", now.ready, now.wanted)
	default:
		task.Update("%d/%d ready", now.ready, now.wanted)
	}
}

func waitable(o *Object) bool {
	switch o.GroupVersionKind().GroupKind().String() {
	case "Service":
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
		return kind == string(corev1.ServiceTypeLoadBalancer)
	case "Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "Job.batch", "Pod", "CustomResourceDefinition.apiextensions.k8s.io":
		return true
	}
	return false
}

// look reads the state of one workload.
func (w *waiter) look(ctx context.Context, o *Object) (condition, error) {
	client, err := w.client(o.Unstructured, w.namespace)
	if err != nil {
		return condition{}, err
	}
	u, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil {
		return condition{}, fmt.Errorf("read %s: %w", o, err)
	}
	return observe(u)
}

// observe judges a workload by its status, as kubectl rollout status does.
func observe(u *unstructured.Unstructured) (condition, error) {
	convert := func(into any) error {
		return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
	}
	switch u.GetKind() {
	case "Deployment":
		var d appsv1.Deployment
		err := convert(&d)
		return observeDeployment(&d), err
	case "StatefulSet":
		var s appsv1.StatefulSet
		err := convert(&s)
		wanted := replicas(s.Spec.Replicas)
		current := s.Status.ObservedGeneration >= s.Generation && s.Status.UpdatedReplicas >= wanted &&
			(s.Status.UpdateRevision == s.Status.CurrentRevision || s.Status.UpdatedReplicas == wanted)
		c := rollout(wanted, s.Status.Replicas, s.Status.ReadyReplicas, s.Status.AvailableReplicas, current, s.Spec.Selector)
		c.judge = s.Status.ObservedGeneration >= s.Generation && s.Status.UpdatedReplicas > 0
		return c, err
	case "DaemonSet":
		var s appsv1.DaemonSet
		err := convert(&s)
		wanted := s.Status.DesiredNumberScheduled
		current := s.Status.ObservedGeneration >= s.Generation && s.Status.UpdatedNumberScheduled >= wanted
		c := rollout(wanted, s.Status.CurrentNumberScheduled, s.Status.NumberReady, s.Status.NumberAvailable, current, s.Spec.Selector)
		c.judge = s.Status.ObservedGeneration >= s.Generation && s.Status.UpdatedNumberScheduled > 0
		return c, err
	case "Job":
		var j batchv1.Job
		err := convert(&j)
		return observeJob(&j), err
	case "Pod":
		var p corev1.Pod
		err := convert(&p)
		return observePod(&p), err
	case "Service":
		var s corev1.Service
		err := convert(&s)
		c := condition{wanted: 1}
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			c.ready, c.reached = 1, awaitComplete
		}
		return c, err
	}
	return observeDefinition(u), nil
}

// portList names the ports a Service opens.
func portList(o *Object) string {
	ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
	var names []string
	for _, p := range ports {
		if p, ok := p.(map[string]any); ok {
			names = append(names, fmt.Sprint(p["port"]))
		}
	}
	return strings.Join(names, " or ")
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func observeDeployment(d *appsv1.Deployment) condition {
	wanted := replicas(d.Spec.Replicas)
	current := d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas >= wanted
	c := rollout(wanted, d.Status.Replicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas, current, d.Spec.Selector)
	c.judge = d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas > 0
	for _, cond := range d.Status.Conditions {
		if cond.Type == appsv1.DeploymentProgressing && cond.Reason == "ProgressDeadlineExceeded" && d.Status.ObservedGeneration >= d.Generation {
			c.failed = cond.Message
		}
	}
	return c
}

// rollout: started when the new pods exist, ready when they are all available
// and no old one is left.
func rollout(wanted, existing, ready, available int32, current bool, selector *metav1.LabelSelector) condition {
	c := condition{ready: ready, wanted: wanted}
	if selector != nil {
		c.selector = selector.MatchLabels
	}
	if !current {
		c.ready = min(ready, max(wanted-1, 0)) // old pods are ready, not these
		return c
	}
	if existing >= wanted {
		c.reached = awaitStarted
	}
	if existing == wanted && available >= wanted {
		c.reached = awaitComplete
	}
	return c
}

func observeJob(j *batchv1.Job) condition {
	c := condition{wanted: replicas(j.Spec.Completions), ready: j.Status.Succeeded}
	if j.Spec.Selector != nil {
		c.selector, c.judge = j.Spec.Selector.MatchLabels, true
	}
	if j.Status.Active+j.Status.Succeeded > 0 {
		c.reached = awaitStarted
	}
	for _, cond := range j.Status.Conditions {
		if cond.Status != corev1.ConditionTrue {
			continue
		}
		switch cond.Type {
		case batchv1.JobComplete:
			c.reached = awaitComplete
		case batchv1.JobFailed:
			c.failed = orDefault(cond.Message, cond.Reason)
		}
	}
	return c
}

func observePod(p *corev1.Pod) condition {
	c := condition{wanted: 1}
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		c.ready, c.reached = 1, awaitComplete
	case corev1.PodFailed:
		c.failed = orDefault(p.Status.Message, "its containers failed")
	case corev1.PodRunning:
		c.reached = awaitStarted
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			c.ready, c.reached = 1, awaitComplete
		}
	}
	return c
}

func observeDefinition(u *unstructured.Unstructured) condition {
	c := condition{wanted: 1}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, cond := range conditions {
		if cond, ok := cond.(map[string]any); ok && cond["type"] == "Established" && cond["status"] == "True" {
			c.ready, c.reached = 1, awaitComplete
		}
	}
	return c
}

// explain turns the end of waiting into an error about the first workload that
// is not ready.
func (w *waiter) explain(ctx context.Context, pending []*Object, last map[*Object]condition, cause error) error {
	if !errors.Is(cause, errNotReady) && !errors.Is(cause, context.DeadlineExceeded) || len(pending) == 0 {
		return cause
	}
	o := pending[0]
	if task := w.tasks[o]; task != nil {
		task.Fail("not ready in time")
	}
	return w.failure(context.WithoutCancel(ctx), o, last[o], fmt.Sprintf("not ready in time: %d of %d", last[o].ready, last[o].wanted))
}

// failure gathers what a person would look up next: which pod, its state, the
// last events and the last lines it wrote.
func (w *waiter) failure(ctx context.Context, o *Object, now condition, why string) error {
	namespace := orDefault(o.GetNamespace(), w.namespace)
	details := w.diagnose(ctx, namespace, now.selector, why)
	err := fmt.Errorf("%s: %s: %s%s", o.Origin, o, why, details)
	return hint.Wrap(err, "everything that was deployed is still there: `kubectl -n %s describe %s`, and when it is mended run the command again", namespace, o)
}
