package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/controllers"
	"github.com/gantryhq/gantry/engine/store"
)

// cluster is a real API server over a real store, with all controllers and a
// node that pretends to run what is bound to it.
type cluster struct {
	kubernetes.Interface
	api     *apiserver.Server
	dataDir string
	// answer, when set, sees each request of a controller first.
	answer func(*http.Request) *http.Response
	// seen, when set, is told about each request of a controller and of the node.
	seen func(component string, r *http.Request)
	// stop ends everything and returns when it has ended. It is called after
	// the test, too.
	stop func()
}

func startCluster(t testing.TB, options ...func(*cluster)) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{dataDir: t.TempDir()}
	for _, o := range options {
		o(c)
	}
	var toStop []func()
	c.stop = sync.OnceFunc(func() {
		for _, f := range slices.Backward(toStop) {
			f()
		}
	})
	t.Cleanup(func() { c.stop() })
	st, err := store.Open(filepath.Join(c.dataDir, "state.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	toStop = append(toStop, func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}, cancel)
	if c.api, err = apiserver.New(ctx, apiserver.Config{Store: st, DataDir: c.dataDir, Listen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	c.Interface = kubernetes.NewForConfigOrDie(c.api.ClientConfig("tester", "system:masters"))
	all, err := controllers.New(controllers.Config{Client: c.clientConfig, DataDir: c.dataDir, CABundle: c.api.CABundle()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- all.Run(ctx) }()
	toStop = append(toStop, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-all.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("controllers ended: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("controllers are not ready after a minute")
	}
	startNode(t, ctx, kubernetes.NewForConfigOrDie(c.watched("node", c.api.ClientConfig("tester", "system:masters"))))
	return c
}

func (c *cluster) clientConfig(component string) *rest.Config {
	user, groups := controllers.Identity(component)
	return c.watched(component, c.api.ClientConfig(user, groups...))
}

func (c *cluster) watched(component string, config *rest.Config) *rest.Config {
	if c.answer == nil && c.seen == nil {
		return config
	}
	inner := config.Transport
	config.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if c.seen != nil {
			c.seen(component, r)
		}
		if c.answer != nil {
			if response := c.answer(r); response != nil {
				return response, nil
			}
		}
		return inner.RoundTrip(r)
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// node reports pods that are bound to it as running and ready, those that run
// to completion as succeeded, and lets deleted ones go.
type node struct {
	ctx    context.Context
	client kubernetes.Interface
	mu     sync.Mutex // guards following
	seen   map[types.UID]bool
}

const nodeName = "machine"

func startNode(t testing.TB, ctx context.Context, client kubernetes.Interface) {
	t.Helper()
	resources := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("100"), corev1.ResourceMemory: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("1000"),
	}
	_, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelHostname: nodeName}},
		Status: corev1.NodeStatus{
			Capacity: resources, Allocatable: resources,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	n := &node{ctx: ctx, client: client, seen: map[types.UID]bool{}}
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "spec.nodeName=" + nodeName
	}))
	if _, err := f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { n.sync(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { n.sync(obj.(*corev1.Pod)) },
	}); err != nil {
		t.Fatal(err)
	}
	f.Start(ctx.Done())
}

func (n *node) sync(pod *corev1.Pod) {
	n.mu.Lock()
	first := !n.seen[pod.UID]
	n.seen[pod.UID] = true
	n.mu.Unlock()
	switch {
	case pod.DeletionTimestamp != nil:
		now := int64(0)
		go n.client.CoreV1().Pods(pod.Namespace).Delete(n.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	case first:
		pod = pod.DeepCopy()
		pod.Status = statusOf(pod)
		go n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(n.ctx, pod, metav1.UpdateOptions{})
	}
}

func statusOf(pod *corev1.Pod) corev1.PodStatus {
	now := metav1.Now()
	s := *pod.Status.DeepCopy()
	s.Phase, s.StartTime = corev1.PodRunning, &now
	s.PodIP = fmt.Sprintf("10.244.%d.%d", pod.UID[0]%250, pod.UID[1])
	s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	finished := pod.Spec.RestartPolicy != corev1.RestartPolicyAlways
	if finished {
		s.Phase = corev1.PodSucceeded
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status := corev1.ConditionTrue
		if finished && (kind == corev1.PodReady || kind == corev1.ContainersReady) {
			status = corev1.ConditionFalse
		}
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: now})
	}
	for _, container := range pod.Spec.Containers {
		started := true
		state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
		if finished {
			state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: now, FinishedAt: now}}
		}
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: !finished, Started: &started, State: state,
		})
	}
	return s
}

// eventually polls until check answers "" and otherwise fails with its last answer.
func eventually(t testing.TB, what string, check func() string) {
	t.Helper()
	eventuallyWithin(t, what, 40*time.Second, check)
}

// minuteAndMore is enough for what happens at the next full minute.
const minuteAndMore = 80 * time.Second

func eventuallyWithin(t testing.TB, what string, patience time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, problem)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) namespace(t testing.TB, name string) string {
	t.Helper()
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Pods are refused before their account is there, and quotas count the certificate.
	eventually(t, "service account of namespace "+name, func() string {
		_, err := c.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return problem(err)
	})
	eventually(t, "certificate in namespace "+name, func() string {
		_, err := c.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return problem(err)
	})
	return name
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// gone is a check that a read answers "not found".
func gone(err error) string {
	if apierrors.IsNotFound(err) {
		return ""
	}
	return fmt.Sprintf("still there (%v)", err)
}

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "example/app:1",
			Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
			}},
		}}},
	}
}

func ptr[T any](v T) *T { return &v }
