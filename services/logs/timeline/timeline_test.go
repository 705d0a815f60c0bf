package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/search"
)

// journal keeps lines in memory.
type journal struct {
	mu    sync.Mutex
	lines map[string][]archive.Entry
}

func (j *journal) write(namespace string, at time.Time, line []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines[namespace] = append(j.lines[namespace], archive.Entry{Time: at.UnixNano(), Line: line})
	return nil
}

func (j *journal) Units(from, to int64, fits func(labels.Labels) bool) (units []search.Unit, _ error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for ns, entries := range j.lines {
		l := labels.FromStrings("namespace", ns, SourceLabel, SourceValue)
		if !fits(l) {
			continue
		}
		units = append(units, search.Unit{Labels: l, Max: to, Scan: func(_ *archive.Scratch, _ []archive.Needle, _ []byte, each func(archive.Entry) bool) error {
			for _, e := range entries {
				if !each(e) {
					break
				}
			}
			return nil
		}})
	}
	return units, nil
}

// record follows client until the test ends or stop is called.
func record(t *testing.T, client kubernetes.Interface, j *journal) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	r, err := NewRecorder(Config{Factory: factory, Workload: func(p *corev1.Pod) string { return p.Labels["app"] }, Source: j, Write: j.write, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	for { // until what was before is known
		r.mu.Lock()
		ready := r.ready
		r.mu.Unlock()
		if ready {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return func() { cancel(); <-done; factory.Shutdown() }
}

// ask is what the API answers, a line for each event.
func ask(t *testing.T, j *journal, query string, may func(string) bool) []Event {
	t.Helper()
	s := &Server{Source: j, Rights: func(*http.Request) (func(string) bool, error) { return may, nil }}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", Path+"?"+query, nil))
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	return a.Events
}

func all(string) bool { return true }

// until waits for an event whose description contains all of the texts.
func until(t *testing.T, j *journal, texts ...string) Event {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		events := ask(t, j, "", all)
	next:
		for _, e := range events {
			for _, text := range texts {
				if !strings.Contains(fmt.Sprint(e.Kind, " ", e.Object, " ", e.By, " ", e.Message), text) {
					continue next
				}
			}
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no event with %q in %v", texts, events)
		}
	}
}

func deployment(image string, replicas int32) *appsv1.Deployment {
	now := metav1.Now()
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "d1", CreationTimestamp: now, ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "kubectl", Time: &now, FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{"f:replicas":{},"f:template":{}}}`)}},
		}},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}}}},
	}
}

func TestChangesAreRecordedOnce(t *testing.T) {
	ctx := t.Context()
	j := &journal{lines: map[string][]archive.Entry{}}
	client := fake.NewClientset(deployment("web:1", 2))
	stop := record(t, client, j)
	until(t, j, "deploy", "deployment/web", "kubectl", "deployed main=web:1")
	for i, image := range []string{"web:2", "web:1"} {
		d := deployment(image, 2)
		d.ResourceVersion = fmt.Sprint(10 + i)
		if _, err := client.AppsV1().Deployments("shop").Update(ctx, d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if image == "web:2" {
			until(t, j, "deploy", "main: web:1 → web:2")
		}
	}
	until(t, j, "rollback", "rolled back main: web:2 → web:1")
	if _, err := client.AppsV1().Deployments("shop").Update(ctx, deployment("web:1", 5), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, j, "scale", "from 2 to 5")

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "shop", UID: "p1", Labels: map[string]string{"app": "web"}}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 1, LastTerminationState: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", FinishedAt: metav1.Now()},
	}}}
	if _, err := client.CoreV1().Pods("shop").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := until(t, j, "restart", "ran out of memory"); e.Workload != "web" || e.Details["exitCode"] != "137" || e.Severity != "error" {
		t.Errorf("the restart is %+v", e)
	}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "shop", ResourceVersion: "1"}, Data: map[string]string{"a": "1", "password": "hunter2"}}
	if _, err := client.CoreV1().ConfigMaps("shop").Create(ctx, settings, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := settings.DeepCopy()
	changed.ResourceVersion, changed.Data["password"] = "2", "hunter3"
	if _, err := client.CoreV1().ConfigMaps("shop").Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := until(t, j, "config", "changed password"); strings.Contains(string(e.line()), "hunter") {
		t.Errorf("the event tells the value: %s", e.line())
	}
	warn := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e1", Namespace: "bank"}, Type: "Warning", Reason: "FailedMount", Message: "no\nsuch volume",
		LastTimestamp: metav1.Now(), InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "vault-0", Namespace: "bank"}}
	if _, err := client.CoreV1().Events("bank").Create(ctx, warn, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, j, "warning", "pod/vault-0", "FailedMount: no such volume")

	before := len(ask(t, j, "", all))
	stop()
	defer record(t, client, j)() // another process, which sees all objects anew
	if after := ask(t, j, "", all); len(after) != before {
		t.Errorf("after a restart there are %d events instead of %d: %v", len(after), before, after)
	}

	for query, want := range map[string]int{"namespace=shop&workload=web&kind=restart": 1, "kind=deploy,rollback": 3, "namespace=bank": 1, "workload=other": 0, "limit=2": 2, "end=10": 0} {
		if got := ask(t, j, query, all); len(got) != want {
			t.Errorf("%s: %d events, want %d: %v", query, len(got), want, got)
		}
	}
	if got := ask(t, j, "", func(n string) bool { return n == "bank" }); len(got) != 1 {
		t.Errorf("who may see bank only sees %v", got)
	}
}

func TestAlertsThatFired(t *testing.T) {
	sample := func(seconds ...int64) (list []model.SamplePair) {
		for _, s := range seconds {
			list = append(list, model.SamplePair{Timestamp: model.Time(s * 1000), Value: 1})
		}
		return list
	}
	a := &Alerts{Workload: func(ns, pod string) string { return ns + "." + pod }}
	s := &model.SampleStream{
		Metric: model.Metric{"alertname": "Crash", "severity": "critical", "namespace": "shop", "pod": "web-1"},
		Values: sample(100, 110, 120, 300, 310),
	}
	got := a.firing(s, 10*time.Second, time.Unix(310, 0))
	if len(got) != 2 || got[0].End == nil || got[0].End.Unix() != 130 || got[1].End != nil || got[1].Time.Unix() != 300 {
		t.Fatalf("the alert fired %+v", got)
	}
	if e := got[0]; e.Severity != "error" || e.Object != "pod/web-1" || e.Workload != "shop.web-1" || e.Message != "alert Crash" {
		t.Errorf("the alert is %+v", e)
	}
}
