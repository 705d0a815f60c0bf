package app

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// restartsUntilHopeless: a container that needs another service may fail a
	// few times before that one is there; one that fails so often will go on.
	restartsUntilHopeless = 4
	logLines              = 12
	diagnoseTimeout       = 5 * time.Second
)

// imageRefused is the reason of events, and of waiting containers, when a TrustPolicy refuses an image.
const imageRefused = "ImageRefused"

// needsPerson are reasons of waiting containers that no retry mends.
var needsPerson = []string{"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "RunContainerError", imageRefused}

// hopeless looks for a container of the workload that will not start without a
// person's help and returns a sentence about it, or "".
func (w *waiter) hopeless(ctx context.Context, o *Object, selector map[string]string) (string, error) {
	pods, err := w.pods(ctx, orDefault(o.GetNamespace(), w.namespace), selector)
	if err != nil {
		return "", err
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || revision(&pod) != revision(&pods[0]) {
			continue // of a template that is being replaced
		}
		for _, s := range containerStatuses(&pod) {
			if beyondWaiting(s) {
				return fmt.Sprintf("container %s of pod %s: %s", s.Name, pod.Name, describeState(s)), nil
			}
		}
	}
	return "", nil
}

// refused is why a workload gets no pods: a TrustPolicy has refused one of its images since then.
func (w *waiter) refused(ctx context.Context, o *Object, since time.Time) string {
	list, err := w.kube.CoreV1().Events(orDefault(o.GetNamespace(), w.namespace)).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + imageRefused})
	if err != nil {
		return "" // the next look may tell
	}
	var why string
	visitImages(o.Object, func(image string) string {
		for _, e := range list.Items {
			ours := e.InvolvedObject.Name == o.GetName() || strings.HasPrefix(e.InvolvedObject.Name, o.GetName()+"-") // its ReplicaSet
			if ours && !e.LastTimestamp.Time.Before(since.Truncate(time.Second)) && strings.Contains(e.Message, "image "+image+" ") {
				why = e.Message
			}
		}
		return image
	})
	return why
}

// beyondWaiting is whether a container will not start by being tried again.
func beyondWaiting(s corev1.ContainerStatus) bool {
	waiting, last := s.State.Waiting, s.LastTerminationState.Terminated
	if waiting == nil {
		return false
	}
	switch waiting.Reason {
	case "ImagePullBackOff":
		return true
	case "CrashLoopBackOff": // a command that the image does not have never ran, and never will
		return s.RestartCount >= restartsUntilHopeless || last != nil && last.Reason == "StartError"
	}
	return slices.Contains(needsPerson, waiting.Reason)
}

func (c *cluster) pods(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	list, err := c.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	// Newest first: the pods of the latest template.
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	return list.Items, nil
}

// revision tells pods of one template from those of another.
func revision(pod *corev1.Pod) string {
	return orDefault(pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey], pod.Labels[appsv1.ControllerRevisionHashLabelKey])
}

func containerStatuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// diagnose describes the first pod of a workload that is not ready, beyond what is
// known. What cannot be found out is left out: this text only accompanies an error.
func (w *waiter) diagnose(ctx context.Context, namespace string, selector map[string]string, known string) string {
	if selector == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	pods, err := w.pods(ctx, namespace, selector)
	if err != nil {
		return ""
	}
	if len(pods) == 0 {
		return "\n  no pod exists yet" + w.events(ctx, namespace, "", known)
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return observePod(&p).reached < awaitReady && p.DeletionTimestamp == nil })
	if i < 0 {
		return ""
	}
	pod := &pods[i]
	var b strings.Builder
	fmt.Fprintf(&b, "\n  pod %s: %s", pod.Name, pod.Status.Phase)
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			fmt.Fprintf(&b, ": %s", cond.Message)
		}
	}
	for _, s := range containerStatuses(pod) {
		if s.Ready || s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 {
			continue
		}
		if text := describeState(s); !strings.Contains(known, text) {
			fmt.Fprintf(&b, "\n  container %s: %s", s.Name, text)
		}
		b.WriteString(w.logs(ctx, pod, s))
	}
	b.WriteString(w.events(ctx, namespace, pod.Name, known))
	return b.String()
}

func describeState(s corev1.ContainerStatus) string {
	var text string
	switch {
	case s.State.Waiting != nil:
		text = s.State.Waiting.Reason
		if s.State.Waiting.Message != "" {
			text += ": " + s.State.Waiting.Message
		}
	case s.State.Terminated != nil:
		text = describeEnd(s.State.Terminated)
	case s.State.Running != nil:
		text = "running but not ready (its health check does not succeed)"
	default:
		text = "not started"
	}
	if last := s.LastTerminationState.Terminated; last != nil && s.State.Terminated == nil {
		text += fmt.Sprintf(" (restarted %d times, last %s)", s.RestartCount, describeEnd(last))
	}
	return text
}

func describeEnd(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("ended with status %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		text += " (" + t.Reason + ")"
	}
	if t.Message != "" {
		text += ": " + t.Message
	}
	return text
}

func (w *waiter) logs(ctx context.Context, pod *corev1.Pod, s corev1.ContainerStatus) string {
	options := &corev1.PodLogOptions{Container: s.Name, TailLines: new(int64(logLines)), Previous: s.State.Waiting != nil && s.RestartCount > 0}
	stream, err := w.kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return ""
	}
	defer stream.Close()
	var b strings.Builder
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		fmt.Fprintf(&b, "\n    | %s", lines.Text())
	}
	return b.String()
}

// events lists the last warnings about a pod, or about anything when pod is "", beyond what is known.
func (w *waiter) events(ctx context.Context, namespace, pod, known string) string {
	options := metav1.ListOptions{FieldSelector: "type=Warning"}
	if pod != "" {
		options.FieldSelector += ",involvedObject.name=" + pod
	}
	list, err := w.kube.CoreV1().Events(namespace).List(ctx, options)
	if err != nil {
		return ""
	}
	list.Items = slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return known != "" && strings.Contains(e.Message, known) })
	const most = 3
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	var b strings.Builder
	for _, e := range list.Items[max(0, len(list.Items)-most):] {
		fmt.Fprintf(&b, "\n  event: %s: %s", e.Reason, strings.TrimSpace(e.Message))
	}
	return b.String()
}
