package objects

import (
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kinds that clusters may lack are read without their Go types.
var (
	// Builds of pipelines.
	Builds = schema.GroupVersionResource{Group: "gantry.dev", Version: "v1alpha1", Resource: "builds"}
	// Routes that may declare objectives, in the order of the kinds of routeKinds.
	Routes = []schema.GroupVersionResource{
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "grpcroutes"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	}
	routeKinds = []string{"HTTPRoute", "GRPCRoute", "Ingress"}
)

// Annotations of a route that declare its objectives: which share of the requests must succeed, such as "99.9%",
// and how long 99 of 100 may take, such as "300ms".
const (
	AnnotationAvailability = "gantry.dev/availability-objective"
	AnnotationLatency      = "gantry.dev/latency-objective"
)

// build makes a gauge of a Build that has ended or goes on.
func build(name string, of func(b *unstructured.Unstructured, add adder)) family {
	return each(name, "gauge", func(b *unstructured.Unstructured, add adder) {
		pipeline, _, _ := unstructured.NestedString(b.Object, "spec", "pipeline")
		of(b, func(v float64, labels ...string) {
			add(v, append([]string{"namespace", b.GetNamespace(), "pipeline", pipeline, "build", b.GetName()}, labels...)...)
		})
	})
}

var builds = []family{
	build("gantry_build_number", func(b *unstructured.Unstructured, add adder) {
		number, _, _ := unstructured.NestedInt64(b.Object, "spec", "number")
		add(float64(number))
	}),
	build("gantry_build_status_phase", func(b *unstructured.Unstructured, add adder) {
		phase, _, _ := unstructured.NestedString(b.Object, "status", "phase")
		reason, _, _ := unstructured.NestedString(b.Object, "status", "reason")
		if phase != "" {
			add(1, "phase", phase, "reason", reason)
		}
	}),
	build("gantry_build_duration_seconds", func(b *unstructured.Unstructured, add adder) {
		if seconds, found, _ := unstructured.NestedInt64(b.Object, "status", "durationSeconds"); found {
			add(float64(seconds))
		}
	}),
	build("gantry_build_completion_timestamp_seconds", func(b *unstructured.Unstructured, add adder) {
		text, _, _ := unstructured.NestedString(b.Object, "status", "completionTime")
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			add(unix(at))
		}
	}),
}

// objectives are what routes of a kind declare. A declaration that cannot be read is none: the default applies.
func objectives(kind string) []family {
	declared := func(name, annotation string, read func(string) (float64, bool)) family {
		return each(name, "gauge", func(r *unstructured.Unstructured, add adder) {
			if text := r.GetAnnotations()[annotation]; text != "" {
				if v, ok := read(text); ok {
					add(v, "route", kind+"/"+r.GetNamespace()+"/"+r.GetName())
				}
			}
		})
	}
	return []family{
		declared("gantry_route_availability_objective_ratio", AnnotationAvailability, ratio),
		declared("gantry_route_latency_objective_seconds", AnnotationLatency, duration),
	}
}

// ratio reads "99.9%" or "0.999".
func ratio(text string) (float64, bool) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		v /= 100
	}
	return v, err == nil && v > 0 && v < 1
}

func duration(text string) (float64, bool) {
	d, err := time.ParseDuration(strings.TrimSpace(text))
	return d.Seconds(), err == nil && d > 0
}
