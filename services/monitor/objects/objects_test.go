package objects

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// What kube-state-metrics would say of the same objects, by its documentation.
func TestObjectsAreToldAsKubeStateMetricsTellsThem(t *testing.T) {
	two, owner := int32(2), true
	factory := informers.NewSharedInformerFactory(fake.NewClientset(
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u1", CreationTimestamp: metav1.Unix(1_700_000_000, 0),
				OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-a", Controller: &owner}}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "web", Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "web", RestartCount: 3, Image: "in\"jec\\tion\n",
					State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}},
		},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &two},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 1}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
			Capacity: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}},
	), 0)
	e := New(factory, dynamicinformer.NewDynamicSharedInformerFactory(dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), 0))
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	lines := strings.Split(text, "\n")
	for _, want := range []string{
		`kube_pod_status_phase{namespace="shop",pod="web-1",uid="u1",phase="Running"} 1`,
		`kube_pod_status_phase{namespace="shop",pod="web-1",uid="u1",phase="Pending"} 0`,
		`kube_pod_status_ready{namespace="shop",pod="web-1",uid="u1",condition="false"} 1`,
		`kube_pod_status_ready{namespace="shop",pod="web-1",uid="u1",condition="true"} 0`,
		`kube_pod_owner{namespace="shop",pod="web-1",uid="u1",owner_kind="ReplicaSet",owner_name="web-a",owner_is_controller="true"} 1`,
		`kube_pod_created{namespace="shop",pod="web-1",uid="u1"} 1.7e+09`,
		`kube_pod_container_status_restarts_total{namespace="shop",pod="web-1",uid="u1",container="web"} 3`,
		`kube_pod_container_status_waiting_reason{namespace="shop",pod="web-1",uid="u1",container="web",reason="CrashLoopBackOff"} 1`,
		`kube_pod_container_info{namespace="shop",pod="web-1",uid="u1",container="web",image="in\"jec\\tion\n",image_id="",container_id=""} 1`,
		`kube_pod_container_resource_limits{namespace="shop",pod="web-1",uid="u1",container="web",node="n1",resource="cpu",unit="core"} 0.5`,
		`kube_pod_container_resource_limits{namespace="shop",pod="web-1",uid="u1",container="web",node="n1",resource="memory",unit="byte"} 6.7108864e+07`,
		`kube_deployment_spec_replicas{namespace="shop",deployment="web"} 2`,
		`kube_deployment_status_replicas_ready{namespace="shop",deployment="web"} 1`,
		`kube_node_status_capacity{node="n1",resource="memory",unit="byte"} 1.073741824e+09`,
		"# TYPE kube_pod_container_status_restarts_total counter",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// What a Build and the annotations of a route become.
func TestBuildsAndObjectives(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	custom := dynamicinformer.NewDynamicSharedInformerFactory(dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), 0)
	e := New(factory, custom)
	put := func(r schema.GroupVersionResource, text string) {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := custom.ForResource(r).Informer().GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	put(Builds, `{"apiVersion":"gantry.dev/v1alpha1","kind":"Build","metadata":{"namespace":"shop","name":"web-7"},"spec":{"pipeline":"web","number":7},
		"status":{"phase":"Failed","reason":"TestFailed","durationSeconds":12,"completionTime":"2023-11-14T22:13:20Z"}}`)
	put(Routes[0], `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"namespace":"shop","name":"web",
		"annotations":{"gantry.dev/availability-objective":"99.5%","gantry.dev/latency-objective":"300ms"}}}`)
	put(Routes[0], `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"namespace":"shop","name":"wrong",
		"annotations":{"gantry.dev/availability-objective":"always","gantry.dev/latency-objective":"-1s"}}}`)
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`gantry_build_number{namespace="shop",pipeline="web",build="web-7"} 7`,
		`gantry_build_status_phase{namespace="shop",pipeline="web",build="web-7",phase="Failed",reason="TestFailed"} 1`,
		`gantry_build_duration_seconds{namespace="shop",pipeline="web",build="web-7"} 12`,
		`gantry_build_completion_timestamp_seconds{namespace="shop",pipeline="web",build="web-7"} 1.7e+09`,
		`gantry_route_availability_objective_ratio{route="HTTPRoute/shop/web"} 0.995`,
		`gantry_route_latency_objective_seconds{route="HTTPRoute/shop/web"} 0.3`,
	} {
		if !slices.Contains(strings.Split(w.Body.String(), "\n"), want) {
			t.Errorf("missing: %s in\n%s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), "wrong") {
		t.Error("a declaration that cannot be read was told")
	}
}
