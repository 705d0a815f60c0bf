package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kill ends a pod of the service at once, as a crash would, and returns it.
func (d *demo) kill(ctx context.Context, service string) (*corev1.Pod, error) {
	pods, err := d.pods(ctx, service)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no pod of %s exists", service)
	}
	now := int64(0)
	err = d.kube.CoreV1().Pods(namespace).Delete(ctx, pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	return &pods[0], err
}

// awaitSuccessor waits for a ready pod other than the old one and returns its name.
func (d *demo) awaitSuccessor(ctx context.Context, service string, old *corev1.Pod) (string, error) {
	const patience = 2 * time.Minute
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		pods, err := d.pods(ctx, service)
		if err != nil {
			return "", err
		}
		for _, p := range pods {
			if p.UID != old.UID && ready(&p) {
				return p.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no new pod of %s got ready within %s", service, patience)
}

func (d *demo) pods(ctx context.Context, service string) ([]corev1.Pod, error) {
	list, err := d.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + service})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), nil
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// restartsAndPods is a text that changes when any container is replaced or
// restarted.
func (d *demo) restartsAndPods(ctx context.Context) (string, error) {
	list, err := d.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var lines []string
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil {
			continue // on its way out since before
		}
		for _, c := range p.Status.ContainerStatuses {
			lines = append(lines, fmt.Sprintf("%s %s restarts=%d", p.Name, p.UID, c.RestartCount))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}
