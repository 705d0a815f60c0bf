package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// churn scales a deployment up and down and replaces its pods.
func (s *siege) churn(ctx context.Context, random *rand.Rand) {
	deployments := s.client.AppsV1().Deployments(namespace)
	d := deployment("churn", s.in.Registry+"/base/busybox:latest", 1, "sleep 86400")
	for i := 0; ctx.Err() == nil; i++ {
		s.gate.RLock()
		_, _ = deployments.Create(ctx, d, metav1.CreateOptions{}) // until it is there
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, random.IntN(6))
		if i%5 == 0 {
			patch = fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, i)
		}
		_, _ = deployments.Patch(ctx, "churn", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}) // serve may be dead
		s.gate.RUnlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(300+random.IntN(500)) * time.Millisecond):
		}
	}
}

// settleChurn expects the deployment to become what it is told to be.
func (s *siege) settleChurn() {
	s.t.Helper()
	const want = 2
	deployments := s.client.AppsV1().Deployments(namespace)
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, want)
	if _, err := deployments.Patch(s.t.Context(), "churn", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatalf("scale: %v", err)
	}
	waitFor(s.t, time.Minute, "the deployment to be as it was told", func() bool {
		d, err := deployments.Get(s.t.Context(), "churn", metav1.GetOptions{})
		pods, err2 := s.client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=churn"})
		return err == nil && err2 == nil && d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == want &&
			d.Status.AvailableReplicas == want && d.Status.Replicas == want && len(pods.Items) == want
	})
}

// exitCodes are pods that end with a code of their own, and jobs that must complete.
type exitCodes struct {
	mu    sync.Mutex
	began map[string]time.Time // pods whose end was not seen yet
	right int
	lost  int // with the shim
	jobs  int
}

// exits starts a pod now and then, each with another exit code, and jobs.
func (s *siege) exits(ctx context.Context, random *rand.Rand) {
	s.codes.mu.Lock()
	s.codes.began = map[string]time.Time{}
	s.codes.mu.Unlock()
	for i := 0; ctx.Err() == nil; i++ {
		s.gate.RLock()
		s.startExit(ctx, i, random)
		s.gate.RUnlock()
		select {
		case <-ctx.Done():
		case <-time.After(400 * time.Millisecond):
		}
	}
}

func (s *siege) startExit(ctx context.Context, i int, random *rand.Rand) {
	if i%8 == 0 {
		s.startJob(ctx, i)
	}
	code := 1 + random.IntN(120)
	name := fmt.Sprintf("exit-%d-%d", i, code)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "exit"}},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "main", Image: s.in.Registry + "/base/busybox:latest",
			Command: []string{"sh", "-c", fmt.Sprintf("sleep 0.%d; exit %d", random.IntN(10), code)},
		}}},
	}
	if _, err := s.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err == nil {
		s.codes.mu.Lock()
		s.codes.began[name] = time.Now()
		s.codes.mu.Unlock()
	}
}

func (s *siege) startJob(ctx context.Context, i int) {
	completions, patience := int32(2), int32(100)
	_, err := s.client.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("job-%d", i)},
		Spec: batchv1.JobSpec{Completions: &completions, Parallelism: &completions, BackoffLimit: &patience, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: s.in.Registry + "/base/busybox:latest", Command: []string{"sleep", "0.3"}}},
		}}},
	}, metav1.CreateOptions{})
	if err == nil {
		s.codes.mu.Lock()
		s.codes.jobs++
		s.codes.mu.Unlock()
	}
}

// check looks at the pods that have ended, and deletes them.
func (x *exitCodes) check(s *siege) {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=exit"})
	if err != nil {
		s.t.Fatal(err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	there := map[string]bool{}
	for i := range list.Items {
		p := &list.Items[i]
		there[p.Name] = true
		if p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Terminated == nil {
			continue
		}
		x.judge(s.t, p)
		delete(x.began, p.Name)
		if err := s.client.CoreV1().Pods(namespace).Delete(s.t.Context(), p.Name, metav1.DeleteOptions{}); gone(err) {
			s.t.Errorf("delete %s: %v", p.Name, err)
		}
	}
	for name, began := range x.began {
		if !there[name] && time.Since(began) > 5*time.Second {
			s.t.Errorf("pod %s was acknowledged and is gone", name)
		}
	}
}

// judge compares an exit code with the one in the pod's name. Only a shim that
// died can lose one, or cut off a start of which nobody knows how far it got; then
// the status says so.
func (x *exitCodes) judge(t *testing.T, p *corev1.Pod) {
	t.Helper()
	end := p.Status.ContainerStatuses[0].State.Terminated
	switch {
	case strings.HasSuffix(p.Name, fmt.Sprintf("-%d", end.ExitCode)):
		x.right++
	case (end.ExitCode == 255 || end.Reason == "StartError") && strings.Contains(end.Message, "the shim was killed"):
		x.lost++
	default:
		t.Errorf("pod %s ended with %+v", p.Name, end)
	}
}

// drain waits until all pods and jobs have ended.
func (x *exitCodes) drain(s *siege) {
	s.t.Helper()
	waitFor(s.t, 2*time.Minute, "all pods to have ended", func() bool {
		x.check(s)
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.began) == 0
	})
	background := metav1.DeletePropagationBackground
	waitFor(s.t, time.Minute, "all jobs to be complete", func() bool {
		jobs, err := s.client.BatchV1().Jobs(namespace).List(s.t.Context(), metav1.ListOptions{})
		return err == nil && !slices.ContainsFunc(jobs.Items, func(j batchv1.Job) bool { return j.Status.Succeeded != *j.Spec.Completions })
	})
	err := s.client.BatchV1().Jobs(namespace).DeleteCollection(s.t.Context(), metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	if err != nil {
		s.t.Errorf("delete the jobs: %v", err)
	}
}

func (x *exitCodes) summary() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Sprintf("%d exit codes right, %d lost with the shim, %d jobs complete", x.right, x.lost, x.jobs)
}

// traffic asks one address again and again, each time over a new connection.
type traffic struct {
	url, host string
	client    *http.Client
	answered  atomic.Int64

	mu     sync.Mutex
	failed int
	last   error
}

func newTraffic(url, host string) *traffic {
	return &traffic{url: url, host: host, client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (tr *traffic) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := tr.try(); err == nil {
			tr.answered.Add(1)
		} else if tr.answered.Load() > 0 { // once it was reachable
			tr.mu.Lock()
			tr.failed++
			tr.last = err
			tr.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (tr *traffic) try() error {
	req, err := http.NewRequest(http.MethodGet, tr.url, nil)
	if err != nil {
		return err
	}
	req.Host = tr.host
	resp, err := tr.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && strings.TrimSpace(string(body)) != "fine" {
		err = errors.New(resp.Status + " " + string(body))
	}
	return err
}

func (tr *traffic) takeFailures() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := tr.failed
	tr.failed = 0
	return n
}

func (tr *traffic) lastError() error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.last
}

// backs are the median and the longest time until a victim was back.
func backs(list []strike) (median, longest time.Duration) {
	all := make([]time.Duration, len(list))
	for i, k := range list {
		all[i] = k.back.Round(time.Millisecond)
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
