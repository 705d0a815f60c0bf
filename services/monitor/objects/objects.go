// Package objects tells the state of the API's objects as metrics, under the names and labels of
// kube-state-metrics (https://github.com/kubernetes/kube-state-metrics/tree/main/docs), so that
// existing dashboards and rules work. It has those that dashboards use, and not all.
//
// It reads informers' stores when it is asked and keeps nothing.
//
// Imported by services/monitor.
package objects

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Exposition answers GET with the metrics of all objects.
type Exposition struct {
	sources []source
}

// source is one kind: where its objects are, and what is told of them.
type source struct {
	store    cache.Store
	families []family
}

// family is a metric: what of an object is told.
type family struct {
	name, kind string // kind is gauge or counter
	of         func(object any, add func(value float64, labels ...string))
}

// New makes the exposition of two factories' informers, which it asks for; the caller starts them. Kinds that
// the cluster lacks have no objects.
func New(f informers.SharedInformerFactory, custom dynamicinformer.DynamicSharedInformerFactory) *Exposition {
	e := &Exposition{sources: []source{
		{f.Core().V1().Pods().Informer().GetStore(), pods},
		{f.Core().V1().Nodes().Informer().GetStore(), nodes},
		{f.Core().V1().Namespaces().Informer().GetStore(), namespaces},
		{f.Core().V1().Services().Informer().GetStore(), services},
		{f.Core().V1().PersistentVolumeClaims().Informer().GetStore(), claims},
		{f.Core().V1().PersistentVolumes().Informer().GetStore(), volumes},
		{f.Core().V1().ResourceQuotas().Informer().GetStore(), quotas},
		{f.Apps().V1().Deployments().Informer().GetStore(), deployments},
		{f.Apps().V1().ReplicaSets().Informer().GetStore(), replicaSets},
		{f.Apps().V1().StatefulSets().Informer().GetStore(), statefulSets},
		{f.Apps().V1().DaemonSets().Informer().GetStore(), daemonSets},
		{f.Batch().V1().Jobs().Informer().GetStore(), jobs},
		{f.Batch().V1().CronJobs().Informer().GetStore(), cronJobs},
		{f.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), autoscalers},
		{custom.ForResource(Builds).Informer().GetStore(), builds},
	}}
	for i, kind := range routeKinds {
		e.sources = append(e.sources, source{custom.ForResource(Routes[i]).Informer().GetStore(), objectives(kind)})
	}
	return e
}

// ServeHTTP answers in Prometheus' text format.
func (e *Exposition) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := bufio.NewWriterSize(w, 32<<10)
	for _, s := range e.sources {
		list := s.store.List()
		for _, f := range s.families {
			begun := false
			for _, o := range list {
				f.of(o, func(value float64, labels ...string) {
					if !begun {
						begun = true
						out.WriteString("# TYPE " + f.name + " " + f.kind + "\n")
					}
					write(out, f.name, value, labels)
				})
			}
		}
	}
	_ = out.Flush() // the client is gone when this fails
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// write writes a sample; labels are names and values in turn.
func write(out *bufio.Writer, name string, value float64, labels []string) {
	out.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		if i == 0 {
			out.WriteByte('{')
		} else {
			out.WriteByte(',')
		}
		out.WriteString(labels[i])
		out.WriteString(`="`)
		if strings.ContainsAny(labels[i+1], "\\\n\"") {
			_, _ = escape.WriteString(out, labels[i+1])
		} else {
			out.WriteString(labels[i+1])
		}
		out.WriteByte('"')
	}
	if len(labels) > 0 {
		out.WriteByte('}')
	}
	out.WriteByte(' ')
	out.Write(strconv.AppendFloat(out.AvailableBuffer(), value, 'g', -1, 64))
	out.WriteByte('\n')
}

// number tells whether something is so.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 { return float64(t.Unix()) }
