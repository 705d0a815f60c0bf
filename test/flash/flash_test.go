package flash

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	usualRate = 50 // requests a second before the sale
	warmUp    = 5 * time.Second
	// quick is what customers would call an undisturbed shop.
	quick = 100 * time.Millisecond
	// patience bounds what a customer waits for an answer.
	patience = 20 * time.Second
)

func number(name string, otherwise int) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(otherwise)))
	if err != nil {
		panic(fmt.Sprintf("%s is not a number: %v", name, err))
	}
	return n
}

func BenchmarkFlash(b *testing.B) {
	testenv.NeedContainers(b)
	binary := buildStorefront(b)
	rate, last := number("FLASH_RATE", 5000), time.Duration(number("FLASH_SECONDS", 20))*time.Second
	for _, runtime := range strings.Fields(cmp.Or(os.Getenv("FLASH_RUNTIMES"), "gantry runc")) {
		b.Run(runtime, func(b *testing.B) {
			s := openShop(b, instance.Start(b, instance.Options{Args: []string{"--runtime", runtime}}), binary)
			if runtime == "gantry" || os.Getenv("FLASH_SALE") != "" {
				b.Run("sale", func(b *testing.B) { s.sale(b, rate, last, true) })
				b.Run("sale-without-scaling", func(b *testing.B) { s.sale(b, rate, last, false) })
			}
			b.Run("wake", func(b *testing.B) { s.wakes(b, number("FLASH_WAKES", 20)) })
		})
	}
}

// sale is the flash sale.
func (s *shop) sale(b *testing.B, rate int, last time.Duration, scaling bool) {
	s.fixed(b, 1)
	s.await(b, 1)
	if scaling {
		s.policy(b, 1, rate, time.Minute)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	replicas := s.follow(ctx, b)
	l := newLoad(s.in)
	busy := busyTime(b)
	l.run([]phase{{usualRate, warmUp}, {rate, last}})
	busy = busyTime(b) - busy
	cancel()

	sale := l.between(warmUp, warmUp+last)
	b.ReportMetric(float64(sale.Requests), "requests")
	b.ReportMetric(float64(sale.Failed), "failed")
	b.ReportMetric(sale.P50.Seconds()*1000, "p50-ms")
	b.ReportMetric(sale.P99.Seconds()*1000, "p99-ms")
	b.ReportMetric(sale.Max.Seconds()*1000, "max-ms")
	b.ReportMetric(float64(l.most.Load()), "connections")
	b.ReportMetric(busy.Seconds()/time.Since(l.began).Seconds(), "cores-busy")
	if at, ok := l.calm(warmUp, warmUp+last, quick); ok {
		b.ReportMetric((at - warmUp).Seconds(), "s-to-calm")
	} else {
		b.ReportMetric(-1, "s-to-calm")
	}
	began := l.began.Add(warmUp)
	enough := (rate + perReplica - 1) / perReplica
	if scaling {
		b.ReportMetric(since(began, replicas(2)), "s-to-second-replica")
		b.ReportMetric(since(began, replicas(enough)), "s-to-enough")
		b.ReportMetric(float64(enough), "replicas-enough")
	}
	for slot := time.Duration(0); slot < last; slot += time.Second {
		one := l.between(warmUp+slot, warmUp+slot+time.Second)
		b.Logf("second %2.0f: %5d requests, %d failed, p50 %v, p99 %v, max %v", slot.Seconds()+1, one.Requests, one.Failed,
			one.P50.Round(100*time.Microsecond), one.P99.Round(100*time.Microsecond), one.Max.Round(100*time.Microsecond))
	}
	if sale.Failed > 0 {
		b.Logf("failures: %v", sale.Errors)
	}
	if scaling {
		s.dropPolicy(b)
	}
}

// since is the time from one moment to another; -1 when that never came.
func since(began, at time.Time) float64 {
	if at.IsZero() {
		return -1
	}
	return at.Sub(began).Seconds()
}

// wakes asks the sleeping shop for a page again and again.
func (s *shop) wakes(b *testing.B, n int) {
	s.policy(b, 0, perReplica, 5*time.Second)
	var took []time.Duration
	for range n {
		s.await(b, 0) // nobody has asked for 5 s
		l := newLoad(s.in)
		l.run([]phase{{1, time.Second / 2}})
		if a := l.answers[0]; a.err != nil {
			b.Fatalf("the first request: %v", a.err)
		} else {
			took = append(took, a.took)
		}
	}
	s.dropPolicy(b)
	slices.Sort(took)
	b.ReportMetric(float64(n), "wakes")
	b.ReportMetric(took[n/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(took[(n*99-1)/100].Seconds()*1000, "p99-ms")
	b.ReportMetric(took[n-1].Seconds()*1000, "max-ms")
}

// follow notes when the shop had how many ready replicas. The function that it returns says
// when there were first that many; the zero time when there never were.
func (s *shop) follow(ctx context.Context, b *testing.B) func(n int) time.Time {
	first := make(chan map[int]time.Time, 1)
	first <- map[int]time.Time{}
	watch, err := s.client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + appName})
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for e := range watch.ResultChan() {
			slice, ok := e.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				continue
			}
			now, times := time.Now(), <-first
			for n := 1; n <= ready(slice); n++ {
				if times[n].IsZero() {
					times[n] = now
				}
			}
			first <- times
		}
	}()
	return func(n int) time.Time {
		times := <-first
		defer func() { first <- times }()
		return times[n]
	}
}

func ready(slice *discoveryv1.EndpointSlice) (n int) {
	for _, e := range slice.Endpoints {
		if e.Conditions.Ready != nil && *e.Conditions.Ready {
			n++
		}
	}
	return n
}

// fixed sets the number of replicas.
func (s *shop) fixed(b *testing.B, n int) {
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)
	_, err := s.client.AppsV1().Deployments(namespace).Patch(context.Background(), appName, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "scale")
	if err != nil {
		b.Fatal(err)
	}
}

// await waits until exactly n pods exist, and are ready.
func (s *shop) await(b *testing.B, n int) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		pods, err := s.client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + appName})
		if err != nil {
			b.Fatal(err)
		}
		serving := 0
		for _, p := range pods.Items {
			if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				serving++
			}
		}
		if len(pods.Items) == n && serving == n {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d pods, %d of them ready, want %d", len(pods.Items), serving, n)
		}
	}
}
