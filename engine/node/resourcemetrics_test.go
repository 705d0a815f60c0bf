package node

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// What the kubelet calls them, a metrics server reads.
func TestResourceMetricsAreTheKubelets(t *testing.T) {
	at := metav1.NewTime(time.UnixMilli(1_700_000_000_250))
	cpu, memory := uint64(1_500_000_000), uint64(8<<20)
	pod := stats.PodStats{
		PodRef:     stats.PodReference{Name: "web-1", Namespace: "shop"},
		CPU:        &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu},
		Memory:     &stats.MemoryStats{Time: at, WorkingSetBytes: &memory},
		Containers: []stats.ContainerStats{{Name: "web", StartTime: at, CPU: &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu}, Memory: &stats.MemoryStats{Time: at, WorkingSetBytes: &memory}}},
	}
	text := string(resourceMetrics([]stats.PodStats{pod}))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for name, want := range map[string]float64{
		"container_cpu_usage_seconds_total": 1.5, "container_memory_working_set_bytes": 8 << 20, "container_start_time_seconds": 1_700_000_000.25,
		"pod_cpu_usage_seconds_total": 1.5, "pod_memory_working_set_bytes": 8 << 20, "resource_scrape_error": 0,
	} {
		m := families[name].GetMetric()
		if len(m) != 1 {
			t.Errorf("%s has %d samples, want 1", name, len(m))
			continue
		}
		if got := m[0].GetCounter().GetValue() + m[0].GetGauge().GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
		if name != "resource_scrape_error" && m[0].GetTimestampMs() != at.UnixMilli() {
			t.Errorf("%s is of %d, want %d", name, m[0].GetTimestampMs(), at.UnixMilli())
		}
	}
	for _, name := range []string{"node_cpu_usage_seconds_total", "node_memory_working_set_bytes"} {
		if m := families[name].GetMetric(); len(m) != 1 || m[0].GetCounter().GetValue()+m[0].GetGauge().GetValue() <= 0 {
			t.Errorf("%s is %v", name, m)
		}
	}
	if !strings.Contains(text, `container_cpu_usage_seconds_total{container="web",namespace="shop",pod="web-1"} 1.5 1700000000250`) {
		t.Errorf("not as the kubelet writes it:\n%s", text)
	}
}
