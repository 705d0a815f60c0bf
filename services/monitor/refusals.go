package monitor

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// refusals are objects that are not in force, and why: said once in an event of the object and in the log, and counted.
type refusals struct {
	log   *slog.Logger
	tell  record.EventRecorder
	count prometheus.Gauge
	known map[string]string // why, by key
}

func newRefusals(ctx context.Context, client clientset.Interface, log *slog.Logger, metrics prometheus.Registerer) *refusals {
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	count := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gantry_monitor_refused_objects", Help: "ServiceMonitors, PodMonitors and configurations that are not in force, or not as a whole.",
	})
	metrics.MustRegister(count)
	return &refusals{log: log, tell: events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "gantry-monitor"}), count: count}
}

// refused is an object that is not in force.
type refused struct {
	object runtime.Object
	why    string
}

// replace makes these, by kind, namespace and name, the ones that there are.
func (r *refusals) replace(now map[string]refused) {
	before := r.known
	r.known = make(map[string]string, len(now))
	for key, o := range now {
		r.known[key] = o.why
		if before[key] != o.why {
			r.log.Warn("not in force", "object", key, "err", o.why)
			r.tell.Event(o.object, corev1.EventTypeWarning, "Refused", o.why)
		}
	}
	r.count.Set(float64(len(now)))
}
