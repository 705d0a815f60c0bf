package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

const (
	testContainer = "test"
	testPoll      = 200 * time.Millisecond
	// pullPatience is how long a test may take to start, in addition to its own time.
	pullPatience = 2 * time.Minute
)

// test runs the test's container to its end, as a pod that goes with the Build.
func (r *run) test(ctx context.Context) error {
	spec := r.pipeline.Spec.Test
	began := time.Now()
	client, err := kubernetes.NewForConfig(r.cfg.As(r.build.Namespace, r.pipeline.Spec.ServiceAccountName))
	if err != nil {
		return err
	}
	pods := client.CoreV1().Pods(r.build.Namespace)
	pod := r.testPod()
	zero := int64(0)
	remove := func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		if err := pods.Delete(clean, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
			r.log.printf("warning: cannot remove the test's pod: %v", err)
		}
	}
	if _, err := pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil { // of an attempt that was interrupted
		remove()
	}
	r.log.printf("testing in %s", pod.Spec.Containers[0].Image)
	if err := r.createPod(ctx, client, pod); err != nil {
		return fmt.Errorf("start the test: %w", err)
	}
	defer remove()
	timeout := time.Duration(spec.TimeoutSeconds) * time.Second
	waitCtx, cancel := context.WithTimeoutCause(ctx, timeout+pullPatience, fmt.Errorf("the test took longer than %v", timeout))
	defer cancel()
	err = r.follow(waitCtx, client, pod.Name)
	result := &v1alpha1.BuildTestResult{Passed: err == nil, DurationSeconds: int64(time.Since(began).Round(time.Second).Seconds())}
	if err != nil {
		result.Message = clip(err.Error(), 1000)
	}
	r.build.Status.Test = result
	return err
}

func (r *run) createPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	for deadline := time.Now().Add(stopPatience); ; {
		_, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: User})
		if !apierrors.IsAlreadyExists(err) || time.Now().After(deadline) {
			return err
		}
		select { // the former one is on its way out
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(testPoll):
		}
	}
}

func (r *run) testPod() *corev1.Pod {
	spec := r.pipeline.Spec.Test
	no, deadline := false, int64(spec.TimeoutSeconds)
	env := []corev1.EnvVar{{Name: "GANTRY_BUILD", Value: strconv.FormatInt(r.build.Spec.Number, 10)}, {Name: "GANTRY_COMMIT", Value: r.build.Status.Commit.ID}}
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, corev1.EnvVar{Name: name, Value: spec.Env[name]})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.build.Name + "-test", Namespace: r.build.Namespace, Labels: map[string]string{v1alpha1.PipelineLabel: r.pipeline.Name},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Build", Name: r.build.Name, UID: r.build.UID}},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: &deadline, ServiceAccountName: r.pipeline.Spec.ServiceAccountName,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: testContainer, Image: r.testImage(spec.Image), Command: spec.Command, Env: env,
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no},
			}},
		},
	}
}

// testImage is what was built under that name, or the image of that name.
func (r *run) testImage(name string) string {
	for _, i := range r.build.Status.Images {
		if i.Name == name || strings.TrimPrefix(i.Name, r.build.Namespace+"/") == name {
			return i.Reference
		}
	}
	return name
}

// follow copies what the test writes into the log and returns how it ended.
func (r *run) follow(ctx context.Context, client kubernetes.Interface, name string) error {
	pods := client.CoreV1().Pods(r.build.Namespace)
	copied := false
	for {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return fmt.Errorf("watch the test: %w", err)
		}
		if started(pod) && !copied {
			if err := r.copyLog(ctx, client, name); err != nil && ctx.Err() == nil {
				r.log.printf("warning: cannot read what the test writes: %v", err)
			}
			copied = true
			continue
		}
		if err := pulling(pod); err != nil {
			return err
		}
		switch pod.Status.Phase {
		case corev1.PodSucceeded:
			return nil
		case corev1.PodFailed:
			return testError(pod)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(testPoll):
		}
	}
}

func (r *run) copyLog(ctx context.Context, client kubernetes.Interface, name string) error {
	stream, err := client.CoreV1().Pods(r.build.Namespace).GetLogs(name, &corev1.PodLogOptions{Container: testContainer, Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	to := &prefixed{log: r.log, prefix: "test: "}
	_, err = io.Copy(to, stream)
	if to.rest != "" {
		_, _ = to.Write([]byte("\n")) // the last line, which had no end; never fails
	}
	return err
}

func started(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil {
			return true
		}
	}
	return false
}

// pulling says that the image cannot be had, or nil.
func pulling(pod *corev1.Pod) error {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError"}, w.Reason) {
			return fmt.Errorf("start the test: %s: %s", w.Reason, w.Message)
		}
	}
	return nil
}

func testError(pod *corev1.Pod) error {
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			return fmt.Errorf("the test ended with status %d", t.ExitCode)
		}
	}
	if pod.Status.Message != "" {
		return errors.New("the test failed: " + pod.Status.Message)
	}
	return errors.New("the test failed: " + pod.Status.Reason)
}
