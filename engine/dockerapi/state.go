package dockerapi

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	types "github.com/moby/moby/api/types/container"
	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// state is a container as docker sees it.
type state struct {
	status types.ContainerState
	run    lastRun
	ready  bool   // passes its health check
	failed string // why the pod cannot run, for as long as it cannot
}

// running is whether it has processes, paused or not.
func (st state) running() bool { return st.status == types.StateRunning || st.paused() }

func (st state) paused() bool { return st.status == types.StatePaused }

// over is whether it has ended and nothing will bring it back.
func (st state) over() bool { return st.status == types.StateExited }

// stateOf reads a container's state from its record and its pod.
func stateOf(r *record, pod *v1.Pod) state {
	if pod == nil || pod.Name != r.Pod {
		st := state{status: types.StateExited, run: r.Last}
		if r.Last.StartedAt.IsZero() && r.Last.FinishedAt.IsZero() {
			st.status = types.StateCreated
		}
		return st
	}
	st := state{status: types.StateCreated, run: r.Last, ready: podutil.IsPodReady(pod)}
	ended := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	if len(pod.Status.ContainerStatuses) == 0 {
		if ended { // the node would not have it
			st.status = types.StateExited
			st.run = lastRun{ExitCode: 128, FinishedAt: time.Now(), Error: joined(pod.Status.Reason, pod.Status.Message)}
		}
		st.failed = unschedulable(pod)
		return st
	}
	cs := pod.Status.ContainerStatuses[0]
	st.run.Restarts = int(cs.RestartCount)
	switch {
	case cs.State.Running != nil:
		st.status = types.StateRunning
		st.run = lastRun{StartedAt: cs.State.Running.StartedAt.Time, Restarts: int(cs.RestartCount)}
		if !r.Paused.IsZero() && r.Paused.Equal(st.run.StartedAt) {
			st.status = types.StatePaused
		}
	case cs.State.Terminated != nil:
		st.run = runOf(cs.State.Terminated, int(cs.RestartCount))
		st.status = types.StateExited
		if !ended && !r.Stopped && comesBack(pod, cs.State.Terminated.ExitCode) {
			st.status = types.StateRestarting
		}
	case cs.State.Waiting != nil:
		if last := cs.LastTerminationState.Terminated; last != nil {
			st.run = runOf(last, int(cs.RestartCount))
			st.status = types.StateRestarting
			if ended || r.Stopped {
				st.status = types.StateExited
			}
		} else if ended {
			st.status = types.StateExited
			st.run = lastRun{ExitCode: 128, FinishedAt: time.Now(), Error: joined(pod.Status.Reason, pod.Status.Message)}
		}
		switch w := cs.State.Waiting; w.Reason {
		case "", "ContainerCreating", "PodInitializing":
		default:
			st.failed = joined(w.Reason, w.Message)
		}
	}
	return st
}

func runOf(t *v1.ContainerStateTerminated, restarts int) lastRun {
	run := lastRun{ExitCode: int(t.ExitCode), StartedAt: t.StartedAt.Time, FinishedAt: t.FinishedAt.Time, OOMKilled: t.Reason == "OOMKilled", Restarts: restarts}
	if t.Reason == "StartError" || t.Reason == "ContainerCannotRun" {
		run.Error = t.Message
		run.ExitCode = startExitCode(t.Message)
	}
	return run
}

// startExitCode is docker's for a command that could not be started.
func startExitCode(message string) int {
	switch {
	case strings.Contains(message, "permission denied"), strings.Contains(message, "is a directory"):
		return 126
	case strings.Contains(message, "no such file"), strings.Contains(message, "not found"):
		return 127
	}
	return 128
}

func comesBack(pod *v1.Pod, code int32) bool {
	return pod.Spec.RestartPolicy == v1.RestartPolicyAlways || pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure && code != 0
}

// unschedulable is why the scheduler has no place for a pod.
func unschedulable(pod *v1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			return joined(c.Reason, c.Message)
		}
	}
	return ""
}

func joined(reason, message string) string {
	switch {
	case message == "":
		return reason
	case reason == "":
		return message
	}
	return reason + ": " + message
}

// current reads a container's state.
func (s *Server) current(c *container) state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stateOf(&c.rec, c.pod)
}

// describe is the text that docker ps shows.
func (st state) describe(r *record, now time.Time) string {
	since := func(t time.Time) string { return strings.ToLower(units.HumanDuration(now.Sub(t))) }
	switch st.status {
	case types.StateRunning, types.StatePaused:
		text := "Up " + since(st.run.StartedAt)
		switch h := healthOf(r, st, now); h {
		case types.Healthy, types.Unhealthy:
			text += " (" + string(h) + ")"
		case types.Starting:
			text += " (health: starting)"
		}
		if st.paused() {
			text += " (Paused)"
		}
		return text
	case types.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.run.ExitCode, since(st.run.FinishedAt))
	case types.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", st.run.ExitCode, since(st.run.FinishedAt))
	}
	return "Created"
}

// healthOf is the state of the health check. The node probes; until the check first
// passes it is starting for as long as the check's own figures allow.
func healthOf(r *record, st state, now time.Time) types.HealthStatus {
	h := r.Config.Healthcheck
	switch {
	case !hasHealthcheck(r):
		return types.NoHealthcheck
	case st.ready:
		return types.Healthy
	}
	patience := h.StartPeriod + time.Duration(retries(h))*(orElse(h.Interval, 30*time.Second)+orElse(h.Timeout, 30*time.Second))
	if st.running() && now.Sub(st.run.StartedAt) < patience {
		return types.Starting
	}
	return types.Unhealthy
}

func hasHealthcheck(r *record) bool {
	h := r.Config.Healthcheck
	return h != nil && len(h.Test) > 0 && h.Test[0] != "NONE" && h.Test[0] != ""
}

func retries(h *types.HealthConfig) int {
	if h.Retries > 0 {
		return h.Retries
	}
	return 3
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
