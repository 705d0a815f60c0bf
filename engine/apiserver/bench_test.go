package apiserver_test

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// cpu is the CPU time this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp reports CPU time, which on a shared machine says more than the time that passed.
func perOp(b *testing.B, op func(i int)) {
	b.Helper()
	b.ReportAllocs()
	runtime.GC()
	before := cpu()
	b.ResetTimer()
	for i := range b.N {
		op(i)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func benchPod(i int) *corev1.Pod {
	labels := map[string]string{"app": "web", "pod-template-hash": "5d4f8c7b9"}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%06d", i), Namespace: "default", Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u"}}},
		Spec: corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{
			Name: "main", Image: "example.com/app:1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
			Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
	}
}

// writes is a pod's life as its components write it.
type writes struct {
	ctx context.Context
	kubernetes.Interface
	made, bound, deleted int // pods so far
}

// BenchmarkWrites compares a component's requests with those of a client on the network, which
// are recorded in managedFields and pass TLS and HTTP/2 besides. Both speak protobuf when they
// can. What the server does after it has answered, such as collecting garbage, counts too.
func BenchmarkWrites(b *testing.B) {
	in := start(b, b.TempDir(), nil)
	overNetwork := rest.CopyConfig(in.admin)
	overNetwork.ContentType, overNetwork.QPS = "application/vnd.kubernetes.protobuf", -1
	overNetwork.AcceptContentTypes = overNetwork.ContentType
	component := in.ClientConfig("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts", "system:masters")
	addAccount(b, client(b, in.admin))
	for n, way := range []struct {
		name string
		cfg  *rest.Config
	}{{"InProcess", component}, {"Network", overNetwork}} {
		first := n << 20 // so that both have names of their own
		w := &writes{ctx: context.Background(), Interface: client(b, way.cfg), made: first, bound: first, deleted: first}
		for _, one := range []struct {
			name string
			op   func(i int) error
		}{
			{"CreatePod", w.create}, {"GetPod", w.get}, {"BindPod", w.bind},
			{"PatchPodStatus", w.patchStatus}, {"UpdatePodStatus", w.updateStatus},
			{"CreateEvent", w.event}, {"CreateNewEvent", w.newEvent}, {"DeletePod", w.delete},
		} {
			b.Run(way.name+"/"+one.name, func(b *testing.B) {
				for w.made <= first+b.N && one.name != "CreatePod" { // enough to bind and delete
					if err := w.create(0); err != nil {
						b.Fatal(err)
					}
				}
				perOp(b, func(i int) {
					if err := one.op(i); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
	}
}

// BenchmarkBurst is a pod's life when many live at once, as when a deployment grows: their
// durable writes share commits.
func BenchmarkBurst(b *testing.B) {
	const together = 16
	in := start(b, b.TempDir(), nil)
	component := client(b, in.ClientConfig("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts", "system:masters"))
	addAccount(b, component)
	for _, step := range []struct {
		name string
		op   func(*writes, int) error
	}{{"CreatePod", (*writes).create}, {"BindPod", (*writes).bind}, {"DeletePod", (*writes).delete}} {
		b.Run(step.name, func(b *testing.B) {
			if step.name != "CreatePod" {
				burst(b, component, (*writes).create, together)
			}
			perOp(b, func(i int) {
				if i == 0 {
					burst(b, component, step.op, together)
				}
			})
			if step.name != "DeletePod" {
				burst(b, component, (*writes).delete, together)
			}
		})
	}
}

// burst does an operation on b.N pods.
func burst(b *testing.B, c kubernetes.Interface, op func(*writes, int) error, together int) {
	b.Helper()
	var work errgroup.Group
	for worker := range together {
		work.Go(func() error {
			first := worker << 20
			w := &writes{ctx: context.Background(), Interface: c, made: first, bound: first, deleted: first}
			for i := worker; i < b.N; i += together {
				if err := op(w, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		b.Fatal(err)
	}
}

func (w *writes) create(int) error {
	w.made++
	_, err := w.CoreV1().Pods("default").Create(w.ctx, benchPod(w.made), metav1.CreateOptions{})
	return err
}

func (w *writes) get(int) error {
	_, err := w.CoreV1().Pods("default").Get(w.ctx, benchPod(w.made).Name, metav1.GetOptions{})
	return err
}

func (w *writes) bind(int) error {
	w.bound++
	return w.CoreV1().Pods("default").Bind(w.ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: benchPod(w.bound).Name, Namespace: "default"},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "machine"},
	}, metav1.CreateOptions{})
}

func (w *writes) patchStatus(i int) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":null},"status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],`+
		`"conditions":[{"type":"Ready","status":"True","message":"%d"}]}}`, i+int(time.Now().UnixNano()))
	_, err := w.CoreV1().Pods("default").Patch(w.ctx, benchPod(w.made).Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (w *writes) updateStatus(i int) error {
	p, err := w.CoreV1().Pods("default").Get(w.ctx, benchPod(w.made).Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: fmt.Sprint(i, time.Now().UnixNano())}}
	_, err = w.CoreV1().Pods("default").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
	return err
}

func (w *writes) event(int) error {
	now := metav1.Now()
	_, err := w.CoreV1().Events("default").Create(w.ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("web.%x", time.Now().UnixNano()), Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "default", Name: "web-000001", UID: "u"},
		Reason:         "Started", Message: "Started container main", Type: corev1.EventTypeNormal, Count: 1,
		Source: corev1.EventSource{Component: "kubelet", Host: "machine"}, FirstTimestamp: now, LastTimestamp: now,
	}, metav1.CreateOptions{})
	return err
}

func (w *writes) newEvent(int) error {
	_, err := w.EventsV1().Events("default").Create(w.ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web.%x", time.Now().UnixNano()), Namespace: "default"},
		Regarding:  corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "default", Name: "web-000001", UID: "u"},
		Reason:     "Scheduled", Note: "Assigned default/web to machine", Type: corev1.EventTypeNormal, Action: "Binding",
		ReportingController: "default-scheduler", ReportingInstance: "default-scheduler-machine", EventTime: metav1.NowMicro(),
	}, metav1.CreateOptions{})
	return err
}

func (w *writes) delete(int) error {
	w.deleted++
	now := int64(0)
	return w.CoreV1().Pods("default").Delete(w.ctx, benchPod(w.deleted).Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
}

// BenchmarkWatch reports what one more informer adds to a pod's change, for informers of this
// process and for those behind the network: the difference between many and one.
func BenchmarkWatch(b *testing.B) {
	const many = 16
	in := start(b, b.TempDir(), nil)
	addAccount(b, client(b, in.admin))
	overNetwork := rest.CopyConfig(in.admin)
	overNetwork.ContentType, overNetwork.QPS = "application/vnd.kubernetes.protobuf", -1
	overNetwork.AcceptContentTypes = overNetwork.ContentType
	component := in.ClientConfig("tester", "system:masters")
	writer := &writes{ctx: context.Background(), Interface: client(b, component)}
	if err := writer.create(0); err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct {
		name string
		cfg  *rest.Config
	}{{"InProcess", component}, {"Network", overNetwork}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			var used [2]time.Duration
			var allocated [2]uint64
			for which, count := range []int{0, many} {
				ctx, stop := context.WithCancel(context.Background())
				seen := followPods(b, ctx, client(b, way.cfg), count)
				used[which], allocated[which] = costOf(func() {
					for i := range b.N {
						if err := writer.patchStatus(i); err != nil {
							b.Fatal(err)
						}
						for range count {
							<-seen
						}
					}
				})
				stop()
			}
			events := float64(many * b.N)
			b.ReportMetric(float64((used[1]-used[0]).Nanoseconds())/1000/events, "cpu-µs/event")
			b.ReportMetric(float64(allocated[1]-allocated[0])/events, "B/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func costOf(work func()) (time.Duration, uint64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := cpu()
	work()
	took := cpu() - begin
	runtime.ReadMemStats(&after)
	return took, after.TotalAlloc - before.TotalAlloc
}

// followPods runs informers of pods and tells of each update that one's handler gets.
func followPods(b *testing.B, ctx context.Context, c kubernetes.Interface, count int) <-chan struct{} {
	b.Helper()
	seen := make(chan struct{}, count)
	for range count {
		f := informers.NewSharedInformerFactory(c, 0)
		if _, err := f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, _ any) { seen <- struct{}{} },
		}); err != nil {
			b.Fatal(err)
		}
		f.Start(ctx.Done())
		f.WaitForCacheSync(ctx.Done())
	}
	return seen
}

// BenchmarkIdle reports what a server holds that has just started.
func BenchmarkIdle(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	for range b.N {
		before := heap()
		begin := time.Now()
		in := start(b, b.TempDir(), nil)
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "start-ms")
		b.ReportMetric(heap()-before, "heap-MB")
		in.stop()
	}
}
