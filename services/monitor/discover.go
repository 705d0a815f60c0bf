package monitor

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/scrape"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/internal/platform"
)

// monitoringGroup is the API group of the Prometheus operator, whose kinds charts bring.
const monitoringGroup = "monitoring.coreos.com"

var (
	serviceMonitors = schema.GroupVersionResource{Group: monitoringGroup, Version: "v1", Resource: "servicemonitors"}
	podMonitors     = schema.GroupVersionResource{Group: monitoringGroup, Version: "v1", Resource: "podmonitors"}
)

// watched is what the service follows in the API.
type watched struct {
	client  clientset.Interface
	factory informers.SharedInformerFactory
	secrets informers.SharedInformerFactory              // only of SecretName
	custom  dynamicinformer.DynamicSharedInformerFactory // kinds without Go types
	changed chan struct{}                                // capacity 1
}

func newWatched(cfg *rest.Config) (*watched, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "gantry-monitor"
	client, err := clientset.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	custom, err := dynamic.NewForConfig(dynamic.ConfigFor(cfg))
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	w := &watched{
		client:  client,
		factory: informers.NewSharedInformerFactory(client, 0),
		secrets: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(platform.SystemNamespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName).String()
			})),
		custom:  dynamicinformer.NewDynamicSharedInformerFactory(custom, 0),
		changed: make(chan struct{}, 1),
	}
	for _, i := range []cache.SharedInformer{
		w.custom.ForResource(serviceMonitors).Informer(), w.custom.ForResource(podMonitors).Informer(), w.secrets.Core().V1().Secrets().Informer(),
	} {
		if err := w.touchOn(i); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// secret says where samples are sent on to, or is nil.
func (w *watched) secret() *corev1.Secret {
	o, known, _ := w.secrets.Core().V1().Secrets().Informer().GetStore().GetByKey(platform.SystemNamespace + "/" + SecretName)
	if !known {
		return nil
	}
	return o.(*corev1.Secret)
}

// touchOn wakes the service at every change that an informer tells of.
func (w *watched) touchOn(informer cache.SharedInformer) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.touch() }, DeleteFunc: func(any) { w.touch() }, UpdateFunc: func(_, _ any) { w.touch() },
	})
	return err
}

func (w *watched) touch() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// found are the targets that discovery knows, by source: one group for each
// pod and each EndpointSlice that gates let through.
type found map[string]*targetgroup.Group

// take notes what discovery says; a group without targets is gone.
func (f found) take(groups []*targetgroup.Group) {
	for _, g := range groups {
		if len(g.Targets) == 0 {
			delete(f, g.Source)
		} else {
			f[g.Source] = g
		}
	}
}

// keepScraping follows the API and gives the scrape managers their jobs and targets until ctx ends.
func (s *Service) keepScraping(ctx context.Context, platform, workloads *scrape.Manager, out *onward) error {
	w := s.watched
	events := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "unused"}, []string{"role", "event"})
	pods, slicesOf := w.factory.Core().V1().Pods().Informer(), w.factory.Discovery().V1().EndpointSlices().Informer()
	services := w.factory.Core().V1().Services().Informer()
	nodes := w.factory.Core().V1().Nodes().Informer()
	podGate := &gate{SharedIndexInformer: pods, wanted: asksForScrape}
	podTargets := kubernetes.NewPod(s.cfg.Log, podGate, nil, nil, nil, nil, false, false, false, events)
	if err := slicesOf.AddIndexers(cache.Indexers{"service": bySliceService}); err != nil {
		return err
	}
	sliceGate := &gate{SharedIndexInformer: slicesOf, wanted: asksForService(services.GetStore())}
	sliceTargets := kubernetes.NewEndpointSlice(s.cfg.Log, sliceGate, services, pods, nil, nil, nil, nil, false, false, false, events)
	if err := w.touchOn(nodes); err != nil {
		return err
	}
	w.factory.Start(ctx.Done())
	w.custom.Start(ctx.Done())
	w.secrets.Start(ctx.Done())
	w.factory.WaitForCacheSync(ctx.Done())
	w.secrets.WaitForCacheSync(ctx.Done())

	group, ctx := errgroup.WithContext(ctx)
	fromPods, fromSlices := make(chan []*targetgroup.Group), make(chan []*targetgroup.Group)
	run := func(f func()) { group.Go(func() error { f(); return nil }) }
	run(func() { podTargets.Run(ctx, fromPods) })
	run(func() { sliceTargets.Run(ctx, fromSlices) })
	toPlatform, toWorkloads := make(chan targetSets), make(chan targetSets)
	for manager, sets := range map[*scrape.Manager]chan targetSets{platform: toPlatform, workloads: toWorkloads} {
		group.Go(func() error { return manager.Run(sets) })
		group.Go(func() error { <-ctx.Done(); manager.Stop(); return nil })
	}
	group.Go(func() error {
		k := &keeper{Service: s, pods: found{}, slices: found{}, podGate: podGate, sliceGate: sliceGate, toPlatform: toPlatform, toWorkloads: toWorkloads,
			out: out, refusals: newRefusals(ctx, w.client, s.cfg.Log, s.metrics)}
		return k.run(ctx, platform, workloads, fromPods, fromSlices)
	})
	return group.Wait()
}

// keeper brings jobs and targets up to date.
type keeper struct {
	*Service
	pods, slices            found
	podGate, sliceGate      *gate
	toPlatform, toWorkloads chan targetSets
	nodes                   []string
	jobs                    []job
	translated              map[string]translation
	refers                  bool // jobs refer to Secrets, which are looked at again after a while
	out                     *onward
	sent                    string // version of the Secret that says where samples are sent on to
	sentErr                 error  // what is wrong with it
	refusals                *refusals
}

// settle is how long changes are collected before they have an effect.
const settle = 200 * time.Millisecond

func (k *keeper) run(ctx context.Context, platform, workloads *scrape.Manager, fromPods, fromSlices <-chan []*targetgroup.Group) error {
	cfg, err := load(platformJob(k.cfg.Interval))
	if err != nil {
		return fmt.Errorf("configure scraping: %w", err)
	}
	if err := platform.ApplyConfig(cfg); err != nil {
		return fmt.Errorf("configure scraping: %w", err)
	}
	k.watched.touch()
	timer, again := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	timer.Stop()
	again.Stop()
	waiting := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case groups := <-fromPods:
			k.pods.take(groups)
		case groups := <-fromSlices:
			k.slices.take(groups)
		case <-k.watched.changed:
		case <-timer.C:
			waiting = false
			if err := k.sync(ctx, workloads); err != nil {
				return err
			}
			if k.refers {
				again.Reset(fresh)
			}
			continue
		case <-again.C:
		}
		if !waiting {
			waiting = true
			timer.Reset(settle)
		}
	}
}

// sync gives the managers what follows from what is known now.
func (k *keeper) sync(ctx context.Context, workloads *scrape.Manager) error {
	var nodes []string
	for _, n := range k.watched.factory.Core().V1().Nodes().Informer().GetStore().List() {
		nodes = append(nodes, n.(*corev1.Node).Name)
	}
	if slices.Sort(nodes); len(nodes) == 0 || !slices.Equal(nodes, k.nodes) {
		k.nodes = nodes
		if !send(ctx, k.toPlatform, targetSets{platformPool: k.platformTargets(nodes)}) {
			return nil
		}
	}
	custom := k.watched.custom
	k.sliceGate.set(len(custom.ForResource(serviceMonitors).Informer().GetStore().ListKeys()) > 0)
	k.podGate.set(len(custom.ForResource(podMonitors).Informer().GetStore().ListKeys()) > 0)
	not := map[string]refused{}
	if err := k.sendOn(not); err != nil {
		return err
	}
	wanted := k.monitors(ctx, not)
	k.refusals.replace(not)
	jobs := make([]job, 0, len(wanted))
	sets := targetSets{}
	for _, m := range wanted {
		jobs = append(jobs, m.job)
		sets[m.job["job_name"].(string)] = m.choose(k)
	}
	if !reflect.DeepEqual(jobs, k.jobs) {
		cfg, err := load(jobs...)
		if err == nil {
			err = workloads.ApplyConfig(cfg)
		}
		if err != nil {
			return fmt.Errorf("configure scraping of workloads: %w", err)
		}
		k.jobs = jobs
		k.applied.Store(cfg)
	}
	send(ctx, k.toWorkloads, sets)
	return nil
}

// sendOn makes samples be sent on as the Secret says. One with a fault leaves what was before in force.
func (k *keeper) sendOn(not map[string]refused) error {
	secret, version := k.watched.secret(), ""
	if secret != nil {
		version = string(secret.UID) + secret.ResourceVersion
	}
	if version != k.sent {
		k.sent = version
		var cfg *promconfig.Config
		k.sentErr = nil
		if secret != nil {
			cfg, k.sentErr = loadRemote(secret.Data[ConfigKey])
		}
		if k.sentErr == nil {
			k.sentErr = k.out.apply(cfg)
		}
	}
	if k.sentErr != nil && secret != nil {
		not["secret/"+secret.Namespace+"/"+secret.Name] = refused{secret, k.sentErr.Error()}
		return nil
	}
	return k.sentErr
}

func send(ctx context.Context, to chan<- targetSets, sets targetSets) bool {
	select {
	case to <- sets:
		return true
	case <-ctx.Done():
		return false
	}
}

// sorted lists groups that pass, in order of their sources.
func (f found) sorted(pass func(*targetgroup.Group) bool) []*targetgroup.Group {
	list := []*targetgroup.Group{}
	for _, source := range slices.Sorted(maps.Keys(f)) {
		if pass(f[source]) {
			list = append(list, f[source])
		}
	}
	return list
}

// scraping is the configuration of all workloads' jobs and of where samples are sent on to, as YAML without secrets.
func (s *Service) scraping(out *onward) string {
	cfg := promconfig.Config{}
	if applied := s.applied.Load(); applied != nil {
		cfg = *applied
	}
	if sending := out.sending.Load(); sending != nil && sending.cfg != nil {
		cfg.RemoteWriteConfigs, cfg.GlobalConfig.ExternalLabels = sending.cfg.RemoteWriteConfigs, sending.cfg.GlobalConfig.ExternalLabels
	}
	return cfg.String()
}
