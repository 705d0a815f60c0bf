package apiserver_test

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
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

// BenchmarkWrites compares a component's writes with those of a client on the network, which
// are recorded in managedFields and pass TLS and HTTP/2 besides. Both speak protobuf.
func BenchmarkWrites(b *testing.B) {
	in := start(b, b.TempDir(), nil)
	overNetwork := rest.CopyConfig(in.admin)
	overNetwork.ContentType, overNetwork.QPS = "application/vnd.kubernetes.protobuf", -1
	overNetwork.AcceptContentTypes = overNetwork.ContentType
	component := in.ClientConfig("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts", "system:masters")
	addAccount(b, client(b, in.admin))
	n := 0
	for _, way := range []struct {
		name string
		cfg  *rest.Config
	}{{"InProcess", component}, {"Network", overNetwork}} {
		ctx := context.Background()
		pods := client(b, way.cfg).CoreV1().Pods("default")
		b.Run(way.name+"/CreatePod", func(b *testing.B) {
			perOp(b, func(int) {
				n++
				if _, err := pods.Create(ctx, benchPod(n), metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
			})
		})
		p, err := pods.Get(ctx, benchPod(n).Name, metav1.GetOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(way.name+"/GetPod", func(b *testing.B) {
			perOp(b, func(int) {
				if _, err := pods.Get(ctx, p.Name, metav1.GetOptions{}); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run(way.name+"/UpdatePodStatus", func(b *testing.B) {
			perOp(b, func(i int) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: fmt.Sprint(i, time.Now().UnixNano())}}
				if p, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
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
