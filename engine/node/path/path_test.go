// The benchmark of the node agent's path: from a pod that is bound to one that is
// reported ready, and from a deletion to a pod that is gone. The API server and
// everything the agent asks of the kernel are real; driver, images and network
// answer at once, so that what is left is the agent and its requests.
package path_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/v1/pod"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/internal/testenv"
)

const nodeName = "machine"

// machine is a node agent and the API it works for.
type machine struct {
	kubernetes.Interface
	driver *driver
	port   int // something listens here on loopback

	mu       sync.Mutex // guards following
	requests map[string]int
	began    map[string]time.Time // start of the container by pod UID
}

func newMachine(b *testing.B) *machine {
	b.Helper()
	testenv.NeedRoot(b)
	ctx, cancel := context.WithCancel(context.Background())
	dir := b.TempDir()
	log := slog.New(slog.DiscardHandler)
	klog.SetSlogLogger(log)
	st, err := store.Open(filepath.Join(dir, "state.db"), store.Options{})
	check(b, err)
	api, err := apiserver.New(ctx, apiserver.Config{Store: st, DataDir: dir, Listen: "127.0.0.1:0", Logger: log})
	check(b, err)
	m := &machine{Interface: kubernetes.NewForConfigOrDie(api.ClientConfig("tester", "system:masters")), driver: newDriver(), requests: map[string]int{}, began: map[string]time.Time{}}
	m.prepare(b)
	config := api.ClientConfig("system:node:"+nodeName, "system:nodes")
	inner := config.Transport
	config.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		m.count(r)
		return inner.RoundTrip(r)
	})
	n, err := node.New(node.Config{
		Client: config, DataDir: dir, NodeName: nodeName, NodeIP: netip.MustParseAddr("127.0.0.1"),
		Driver: m.driver, Images: images{b.TempDir()}, Network: loopback{}, MaxPods: 1000, Log: log,
	})
	check(b, err)
	m.driver.started = func(uid string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.began[uid] = time.Now()
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
		check(b, node.Cleanup(dir))
		check(b, st.Close())
	})
	<-n.Ready()
	return m
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// count notes a request by verb and kind.
func (m *machine) count(r *http.Request) {
	kind := filepath.Base(r.URL.Path)
	if r.Method == http.MethodDelete || r.Method == http.MethodGet {
		kind = filepath.Base(filepath.Dir(r.URL.Path))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[r.Method+" "+kind]++
}

// prepare makes what a pod needs to be admitted, and something to probe.
func (m *machine) prepare(b *testing.B) {
	b.Helper()
	_, err := m.CoreV1().ServiceAccounts("default").Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	check(b, err)
	_, err = m.CoreV1().ConfigMaps("default").Create(b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "none"}}, metav1.CreateOptions{})
	check(b, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	b.Cleanup(func() { l.Close() })
	m.port = l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

var serial atomic.Int64

func (m *machine) create(b *testing.B) {
	grace := int64(5)
	_, err := m.CoreV1().Pods("default").Create(b.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", serial.Add(1)), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			NodeName: nodeName, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "web", Image: "web:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(m.port)}}},
			}},
		},
	}, metav1.CreateOptions{})
	check(b, err)
}

// sample is what one round of the benchmark measured.
type sample struct {
	bound, began, ready, deleted, gone map[string]time.Time
	writes                             map[string]int // status changes that a watcher saw
}

// follow watches the pods until want of them are ready, or gone.
func (m *machine) follow(b *testing.B, w watch.Interface, s *sample, want int, gone bool) {
	b.Helper()
	for n := 0; n < want; {
		select {
		case e := <-w.ResultChan():
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				b.Errorf("the watch ended: %v", e.Object)
				return
			}
			uid, now := string(p.UID), time.Now()
			switch {
			case e.Type == watch.Added:
				s.bound[uid] = now
			case e.Type == watch.Deleted:
				s.gone[uid] = now
				if gone {
					n++
				}
			case p.DeletionTimestamp != nil && s.deleted[uid].IsZero():
				s.deleted[uid] = now
			default:
				s.writes[uid]++
				if s.ready[uid].IsZero() && pod.IsPodReady(p) {
					s.ready[uid] = now
					if !gone {
						n++
					}
				}
			}
		case <-time.After(time.Minute):
			b.Errorf("%d of %d pods after a minute", n, want)
			return
		}
	}
}

// BenchmarkPath starts and ends 1, 50 and 200 pods at once.
func BenchmarkPath(b *testing.B) {
	for _, pods := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("%dpods", pods), func(b *testing.B) {
			m := newMachine(b)
			var up, down time.Duration
			var all []*sample
			clear(m.requests)
			for b.Loop() {
				s := &sample{bound: map[string]time.Time{}, ready: map[string]time.Time{}, deleted: map[string]time.Time{}, gone: map[string]time.Time{}, writes: map[string]int{}}
				w, err := m.CoreV1().Pods("default").Watch(b.Context(), metav1.ListOptions{LabelSelector: "app=web"})
				check(b, err)
				before := cpu()
				ready := make(chan struct{})
				go func() {
					defer close(ready)
					m.follow(b, w, s, pods, false)
				}()
				for range pods {
					m.create(b)
				}
				<-ready
				settle(b)
				up += cpu() - before
				before = cpu()
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					m.follow(b, w, s, pods, true)
				}()
				check(b, m.CoreV1().Pods("default").DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=web"}))
				<-gone
				settle(b)
				down += cpu() - before
				w.Stop()
				s.began = m.began
				all = append(all, s)
			}
			m.report(b, all, pods, up, down)
		})
	}
}

func (m *machine) report(b *testing.B, all []*sample, pods int, up, down time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := float64(b.N * pods)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(up.Seconds()*1000/n, "up-cpu-ms/pod")
	b.ReportMetric(down.Seconds()*1000/n, "down-cpu-ms/pod")
	between := func(from, to func(*sample) map[string]time.Time) float64 {
		var took []time.Duration
		for _, s := range all {
			for uid, at := range to(s) {
				if f := from(s)[uid]; !f.IsZero() {
					took = append(took, at.Sub(f))
				}
			}
		}
		if len(took) == 0 {
			return 0
		}
		slices.Sort(took)
		return took[len(took)/2].Seconds() * 1000
	}
	bound, began := func(s *sample) map[string]time.Time { return s.bound }, func(s *sample) map[string]time.Time { return s.began }
	ready, deleted, gone := func(s *sample) map[string]time.Time { return s.ready }, func(s *sample) map[string]time.Time { return s.deleted }, func(s *sample) map[string]time.Time { return s.gone }
	b.ReportMetric(between(bound, began), "bound-started-ms")
	b.ReportMetric(between(began, ready), "started-ready-ms")
	b.ReportMetric(between(deleted, gone), "deleted-gone-ms")
	total := 0
	for what, count := range m.requests {
		total += count
		if testing.Verbose() {
			b.Logf("%-30s %6.2f per pod", what, float64(count)/n)
		}
	}
	b.ReportMetric(float64(total)/n, "requests/pod")
}

// settle waits until events and other things that nobody waits for are written.
func settle(b *testing.B) {
	for idle := 0; idle < 3; {
		before := cpu()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-b.Context().Done():
			return
		}
		if idle++; cpu()-before > 2*time.Millisecond {
			idle = 0
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
