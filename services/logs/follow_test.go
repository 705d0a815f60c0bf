package logs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/services/logs/crilog"
)

// podLog is the log of a container as the API tells it.
type podLog struct {
	mu    sync.Mutex
	lines []string // with times
	cut   int      // ends each answer after so many bytes; 0 never
	asked atomic.Int32
	runs  atomic.Bool
}

func (l *podLog) write(at time.Time, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, at.UTC().Format(time.RFC3339Nano)+" "+text)
}

// ServeHTTP implements the API's subresource log, as far as it is asked for here: with the seconds of sinceTime.
func (l *podLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !strings.HasSuffix(r.URL.Path, "/namespaces/shop/pods/web-1/log") || q.Get("timestamps") != "true" || q.Get("container") != "web" {
		http.NotFound(w, r)
		return
	}
	l.asked.Add(1)
	since, _ := time.Parse(time.RFC3339, q.Get("sinceTime"))
	sent, begun := 0, 0
	for r.Context().Err() == nil {
		l.mu.Lock()
		var b bytes.Buffer
		for ; begun < len(l.lines); begun++ {
			stamp, _, _ := strings.Cut(l.lines[begun], " ")
			if at, _ := time.Parse(time.RFC3339Nano, stamp); !at.Before(since) {
				b.WriteString(l.lines[begun] + "\n")
			}
		}
		cut := l.cut
		l.mu.Unlock()
		text := b.Bytes()
		if cut > 0 && sent+len(text) > cut {
			_, _ = w.Write(text[:max(0, cut-sent)])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler) // the connection breaks in the middle of a line
		}
		n, _ := w.Write(text)
		sent += n
		_ = http.NewResponseController(w).Flush()
		if !l.runs.Load() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// With the API alone each line is found once, although connections break and processes end.
func TestLogsThroughTheAPI(t *testing.T) {
	l := &podLog{cut: 900}
	l.runs.Store(true)
	server := httptest.NewServer(l)
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	var pods atomic.Pointer[[]*corev1.Pod]
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.UID, pod.Labels = "shop", "web-1", "uid-1", map[string]string{"app": "web"}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	pods.Store(&[]*corev1.Pod{pod})

	p := newPlace(t)
	start := func() (stop func()) {
		p.restart()
		p.collect = newCollector(p.pods, true, p.archive, p.metrics, &p.hub, func(at crilog.Pod, container string) (labels.Labels, bool) {
			return labelsOf(at, container, pod), true
		}, slog.New(slog.DiscardHandler))
		p.collectors = []*collector{p.collect}
		f := &follower{client: client, spool: newSpool(p.pods), pods: func() []*corev1.Pod { return *pods.Load() }, drain: p.collect.drain, log: slog.New(slog.DiscardHandler), runs: map[runOf]*followed{}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.run(ctx); close(done) }()
		return func() { cancel(); <-done; f.spool.close("") }
	}
	at := time.Now().Add(-time.Minute).Truncate(time.Second)
	var want []string
	write := func(n int) {
		for range n {
			if len(want)%3 != 1 { // some have the same time
				at = at.Add(150 * time.Millisecond)
			}
			text := fmt.Sprintf("line %d", len(want))
			l.write(at, text)
			want = append(want, text)
		}
	}
	until := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			p.poll()
			got := p.ask(`{app="web"}`)
			if strings.Join(got, "|") == strings.Join(want, "|") {
				return
			}
			if time.Now().After(deadline) || len(got) > len(want) {
				t.Fatalf("%s: found %q, want %q", what, got, want)
			}
		}
	}
	stop := start()
	write(40)
	until("while connections break")
	if l.asked.Load() < 2 {
		t.Error("no connection broke: the test tests little")
	}
	stop()
	write(5)
	l.mu.Lock()
	l.cut = 0
	l.mu.Unlock()
	stop = start()
	until("after a restart")
	write(5)
	l.runs.Store(false)
	pods.Store(&[]*corev1.Pod{})
	until("to the end")
	for deadline := time.Now().Add(20 * time.Second); len(p.collect.all()) > 0; time.Sleep(5 * time.Millisecond) {
		if p.poll(); time.Now().After(deadline) {
			t.Fatal("the spool keeps the log of a pod that is gone")
		}
	}
	until("when the pod is gone")
	stop()
}
