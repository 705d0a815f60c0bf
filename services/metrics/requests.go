package metrics

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider/defaults"

	"github.com/gantryhq/gantry/internal/demand"
)

// The custom metrics, of Services, averaged over averaging. The external metrics of the same
// names have a value for each Service.
const (
	requestsPerSecond = "requests_per_second"
	requestsInFlight  = "requests_in_flight"

	averaging = time.Minute
	// second is how often the demand is read.
	second = time.Second
)

var serviceResource = schema.GroupResource{Resource: "services"}

// requests answers the custom and the external metrics API: what the gateways have seen of
// Services.
type requests struct {
	defaults.DefaultCustomMetricsProvider
	defaults.DefaultExternalMetricsProvider
	gateways *demand.Follower // or nil
	client   kubernetes.Interface

	mu   sync.Mutex // guards seen
	seen map[demand.Name][]sample
}

var _ provider.MetricsProvider = &requests{}

// sample is one reading of the demand.
type sample struct {
	at       time.Time
	requests uint64
	inFlight int
}

func newRequests(gateways *demand.Follower, client kubernetes.Interface) *requests {
	return &requests{gateways: gateways, client: client, seen: map[demand.Name][]sample{}}
}

// run reads the demand every second while there is any.
func (r *requests) run(ctx context.Context) {
	tick := time.NewTicker(second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.read(now)
		}
	}
}

func (r *requests) read(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[demand.Name]bool{}
	for _, name := range r.gateways.Names() {
		known[name] = true
		state, _ := r.gateways.Of(name)
		list := append(r.seen[name], sample{now, state.Requests, state.InFlight + state.Waiting})
		for len(list) > 2 && now.Sub(list[1].at) >= averaging {
			list = list[1:]
		}
		r.seen[name] = list
	}
	for name := range r.seen {
		if !known[name] {
			delete(r.seen, name)
		}
	}
}

// ListAllMetrics implements provider.CustomMetricsProvider.
func (r *requests) ListAllMetrics() []provider.CustomMetricInfo {
	return []provider.CustomMetricInfo{
		{GroupResource: serviceResource, Namespaced: true, Metric: requestsPerSecond},
		{GroupResource: serviceResource, Namespaced: true, Metric: requestsInFlight},
	}
}

// GetMetricByName implements provider.CustomMetricsProvider.
func (r *requests) GetMetricByName(_ context.Context, name types.NamespacedName, info provider.CustomMetricInfo, _ labels.Selector) (*custom_metrics.MetricValue, error) {
	if info.GroupResource != serviceResource || info.Metric != requestsPerSecond && info.Metric != requestsInFlight {
		return nil, provider.NewMetricNotFoundForError(info.GroupResource, info.Metric, name.Name)
	}
	r.mu.Lock()
	list := r.seen[demand.Name{Namespace: name.Namespace, Service: name.Name}]
	r.mu.Unlock()
	if len(list) < 2 {
		if r.gateways == nil {
			return nil, apierrors.NewServiceUnavailable("this metrics server is not connected to a gateway")
		}
		if _, err := r.client.CoreV1().Services(name.Namespace).Get(context.Background(), name.Name, metav1.GetOptions{}); err != nil {
			return nil, err
		}
		list = []sample{{at: time.Now().Add(-averaging)}, {at: time.Now()}} // nobody has asked for it
	}
	f := figureOf(list, info.Metric)
	return &custom_metrics.MetricValue{
		DescribedObject: custom_metrics.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
		Metric:          custom_metrics.MetricIdentifier{Name: info.Metric},
		Timestamp:       f.at, WindowSeconds: &f.seconds, Value: f.value,
	}, nil
}

// figure is a metric of one Service.
type figure struct {
	at      metav1.Time
	seconds int64 // that it is averaged over
	value   resource.Quantity
}

// figureOf makes a metric of two samples or more.
func figureOf(list []sample, metric string) figure {
	first, last := list[0], list[len(list)-1]
	window := last.at.Sub(first.at)
	v := float64(last.requests-first.requests) / window.Seconds()
	if metric == requestsInFlight {
		v = 0
		for _, s := range list {
			v += float64(s.inFlight)
		}
		v /= float64(len(list))
	}
	return figure{metav1.NewTime(last.at), int64(window.Seconds()), *resource.NewMilliQuantity(int64(v*1000), resource.DecimalSI)}
}

// ListAllExternalMetrics implements provider.ExternalMetricsProvider.
func (r *requests) ListAllExternalMetrics() []provider.ExternalMetricInfo {
	return []provider.ExternalMetricInfo{{Metric: requestsPerSecond}, {Metric: requestsInFlight}}
}

// serviceLabel is by which external metrics tell Services apart.
const serviceLabel = "service"

// GetExternalMetric implements provider.ExternalMetricsProvider: one value for each Service of the
// namespace that was asked for anything and that the selector chooses, by its name. Who asks
// adds them up.
func (r *requests) GetExternalMetric(_ context.Context, namespace string, selector labels.Selector, info provider.ExternalMetricInfo) (*external_metrics.ExternalMetricValueList, error) {
	if info.Metric != requestsPerSecond && info.Metric != requestsInFlight {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: external_metrics.GroupName, Resource: info.Metric}, "")
	}
	if r.gateways == nil {
		return nil, apierrors.NewServiceUnavailable("this metrics server is not connected to a gateway")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := &external_metrics.ExternalMetricValueList{Items: []external_metrics.ExternalMetricValue{}}
	for name, samples := range r.seen {
		of := labels.Set{serviceLabel: name.Service}
		if name.Namespace != namespace || len(samples) < 2 || !selector.Matches(of) {
			continue
		}
		f := figureOf(samples, info.Metric)
		list.Items = append(list.Items, external_metrics.ExternalMetricValue{
			MetricName: info.Metric, MetricLabels: of, Timestamp: f.at, WindowSeconds: &f.seconds, Value: f.value,
		})
	}
	slices.SortFunc(list.Items, func(a, b external_metrics.ExternalMetricValue) int {
		return strings.Compare(a.MetricLabels[serviceLabel], b.MetricLabels[serviceLabel])
	})
	return list, nil
}

// GetMetricBySelector implements provider.CustomMetricsProvider.
func (r *requests) GetMetricBySelector(ctx context.Context, namespace string, selector labels.Selector, info provider.CustomMetricInfo, metric labels.Selector) (*custom_metrics.MetricValueList, error) {
	services, err := r.client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	list := &custom_metrics.MetricValueList{}
	for _, s := range services.Items {
		v, err := r.GetMetricByName(ctx, types.NamespacedName{Namespace: namespace, Name: s.Name}, info, metric)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, *v)
	}
	return list, nil
}
