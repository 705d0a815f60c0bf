package controllers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const podMetrics = "/apis/metrics.k8s.io/v1beta1/namespaces/autoscale/pods"

// loaded answers the autoscaler's question for metrics: every pod of the
// deployment uses twice the CPU that it asked for.
func loaded(c *cluster) {
	c.answer = func(r *http.Request) *http.Response {
		if r.URL.Path != podMetrics {
			return nil
		}
		pods, err := c.CoreV1().Pods("autoscale").List(r.Context(), metav1.ListOptions{})
		if err != nil {
			return &http.Response{StatusCode: http.StatusInternalServerError, Body: io.NopCloser(strings.NewReader(err.Error())), Request: r}
		}
		list := metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: "metrics.k8s.io/v1beta1"}}
		for _, p := range pods.Items {
			list.Items = append(list.Items, metricsv1beta1.PodMetrics{
				ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
				Timestamp:  metav1.NewTime(time.Now().Add(time.Minute)), Window: metav1.Duration{Duration: time.Second},
				Containers: []metricsv1beta1.ContainerMetrics{{Name: "main", Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}}},
			})
		}
		body, err := json.Marshal(list)
		if err != nil {
			panic(err)
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(bytes.NewReader(body)), Request: r}
	}
}

func autoscalerStory(t *testing.T, c *cluster) {
	if testing.Short() {
		t.Skip("the autoscaler looks every 15 s, too long for -short")
	}
	ns, ctx := c.namespace(t, "autoscale"), t.Context()
	c.deployment(t, ns, "web", 2)
	c.deploymentReady(t, ns, "web", 2)
	if _, err := c.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MinReplicas:    ptr(int32(1)), MaxReplicas: 4,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr(int32(100))},
			}}},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "scale-out", func() string {
		h, err := c.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		d, err := c.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 4 {
			return fmt.Sprintf("%d replicas; conditions %+v", d.Status.ReadyReplicas, h.Status.Conditions)
		}
		return problem(err)
	})
}
