package timeline

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// ends are the events that containers of a pod have ended when they should not, as the pod's status tells.
// of is what owns the pod.
func ends(pod *corev1.Pod, of string) (events []*Event) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if t := c.LastTerminationState.Terminated; t != nil && c.RestartCount > 0 {
				events = append(events, ended(pod, of, &c, t, c.RestartCount-1, true))
			}
			if t := c.State.Terminated; t != nil && t.ExitCode != 0 && pod.DeletionTimestamp == nil {
				events = append(events, ended(pod, of, &c, t, c.RestartCount, false))
			}
		}
	}
	return events
}

// ended is the event that a run of a container has ended.
func ended(pod *corev1.Pod, of string, c *corev1.ContainerStatus, t *corev1.ContainerStateTerminated, run int32, again bool) *Event {
	e := &Event{
		Time: t.FinishedAt.Time, Kind: "restart", Severity: "warning", Namespace: pod.Namespace, Workload: of, Object: "pod/" + pod.Name,
		Details: map[string]string{"container": c.Name, "exitCode": strconv.Itoa(int(t.ExitCode)), "reason": t.Reason, "run": strconv.Itoa(int(run))},
		Key:     string(pod.UID) + "/" + c.Name + "/" + strconv.Itoa(int(run)),
	}
	how := fmt.Sprintf("exit code %d", t.ExitCode)
	switch {
	case t.Reason == "OOMKilled":
		how, e.Severity = "killed because it ran out of memory", "error"
	case t.ExitCode > 128 && t.ExitCode < 160:
		if name := unix.SignalName(unix.Signal(t.ExitCode - 128)); name != "" {
			how += " (" + name + ")"
		}
		e.Severity = "error"
	case t.ExitCode != 0:
		e.Severity = "error"
	}
	if reason := t.Reason; reason != "" && reason != "Error" && reason != "Completed" && reason != "OOMKilled" {
		how += ", " + reason
	}
	e.Message = "container " + c.Name + " ended: " + how
	if again {
		e.Details["restarts"] = strconv.Itoa(int(c.RestartCount))
	}
	if m := strings.TrimSpace(t.Message); m != "" {
		e.Message += ": " + m
	}
	return e
}

// warning is the event behind a warning that the API tells, or nil.
func warning(w *corev1.Event, of string) *Event {
	if w.Type != corev1.EventTypeWarning {
		return nil
	}
	at := w.LastTimestamp.Time
	if w.Series != nil {
		at = w.Series.LastObservedTime.Time
	}
	if at.IsZero() {
		at = w.EventTime.Time
	}
	if at.IsZero() {
		at = w.CreationTimestamp.Time
	}
	object := strings.ToLower(w.InvolvedObject.Kind) + "/" + w.InvolvedObject.Name
	return &Event{
		Time: at, Kind: "warning", Severity: "warning", Namespace: w.Namespace, Workload: of, Object: object, Message: w.Reason + ": " + w.Message,
		Details: map[string]string{"reason": w.Reason}, By: w.Source.Component,
		// Of what is said again and again one in ten minutes is enough.
		Key: w.Reason + "@" + strconv.FormatInt(at.Unix()/600, 10),
	}
}
