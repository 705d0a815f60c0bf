package app

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestWhichContainersAreBeyondWaiting(t *testing.T) {
	for _, c := range []struct {
		what, waiting, ended string
		restarts             int32
		want                 bool
	}{
		{what: "one that is running"},
		{what: "one whose image is on its way", waiting: "ContainerCreating"},
		{what: "one whose image is not to be had", waiting: "ImagePullBackOff", want: true},
		{what: "one that failed while another service started", waiting: "CrashLoopBackOff", ended: "Error", restarts: 1},
		{what: "one that fails again and again", waiting: "CrashLoopBackOff", ended: "Error", restarts: 4, want: true},
		{what: "one whose command does not exist", waiting: "CrashLoopBackOff", ended: "StartError", restarts: 1, want: true},
		{what: "one whose ConfigMap is missing", waiting: "CreateContainerConfigError", want: true},
	} {
		s := corev1.ContainerStatus{RestartCount: c.restarts}
		if c.waiting != "" {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: c.waiting}
		}
		if c.ended != "" {
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: c.ended}
		}
		if got := beyondWaiting(s); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}
