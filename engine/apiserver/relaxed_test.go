package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	internalcore "k8s.io/kubernetes/pkg/apis/core"
)

// TestHowAPodEndedIsNotRelaxed: after a crash nobody could tell it again.
func TestHowAPodEndedIsNotRelaxed(t *testing.T) {
	now := metav1.Now()
	pod := func(phase corev1.PodPhase, deleted bool, finalizers ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Finalizers: finalizers}, Status: corev1.PodStatus{Phase: phase}}
		if deleted {
			p.DeletionTimestamp = &now
		}
		return p
	}
	for _, c := range []struct {
		what string
		obj  runtime.Object
		last bool
	}{
		{"a pod that runs", pod(corev1.PodRunning, false), false},
		{"one that succeeded", pod(corev1.PodSucceeded, false), true},
		{"one that failed", pod(corev1.PodFailed, false), true},
		{"the same as the registry has it", &internalcore.Pod{Status: internalcore.PodStatus{Phase: internalcore.PodFailed}}, true},
		{"one that is being deleted", pod(corev1.PodFailed, true), false},
		{"one that a job waits for", pod(corev1.PodFailed, true, "batch.kubernetes.io/job-tracking"), true},
		{"no object", nil, false},
	} {
		if got := lastWord(c.obj); got != c.last {
			t.Errorf("%s: %v, want %v", c.what, got, c.last)
		}
	}
}
