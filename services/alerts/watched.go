package alerts

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/alerts/alertmanager"
	"github.com/gantryhq/gantry/services/alerts/ruleset"
)

// monitoringGroup is the API group of the Prometheus operator, whose kinds charts bring.
const monitoringGroup = "monitoring.coreos.com"

var (
	prometheusRules = schema.GroupVersionResource{Group: monitoringGroup, Version: "v1", Resource: "prometheusrules"}
	namespaces      = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// SecretName is the Secret in platform.SystemNamespace with the configuration of Alertmanager, under ConfigKey.
// Its keys that end in .tmpl are templates.
const (
	SecretName  = "alertmanager"
	ConfigKey   = "alertmanager.yaml"
	templateEnd = ".tmpl"
)

// ScopeLabel of a namespace says which samples the PrometheusRules in it see: those of the "cluster", or those of the
// "namespace". Without it the namespaces of ofCluster see all: to make one of them takes an administrator.
const ScopeLabel = "gantry.dev/rules-scope"

var ofCluster = []string{platform.SystemNamespace, metav1.NamespaceSystem, "monitoring"}

// refusal is an object that is not in force, and why.
type refusal struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Reason    string `json:"reason"`
}

// watched is what the service follows in the API.
type watched struct {
	client     kubernetes.Interface
	rules      dynamicinformer.DynamicSharedInformerFactory
	namespaces metadatainformer.SharedInformerFactory
	secrets    informers.SharedInformerFactory
	events     record.EventRecorder // set by follow
	changed    chan struct{}        // capacity 1

	mu      sync.Mutex // guards following
	refused map[string]refusal
}

func newWatched(cfg *rest.Config) (*watched, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "gantry-alerts"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start alerts: %w", err)
	}
	custom, err := dynamic.NewForConfig(dynamic.ConfigFor(cfg))
	if err != nil {
		return nil, fmt.Errorf("start alerts: %w", err)
	}
	metadataOnly, err := metadata.NewForConfig(metadata.ConfigFor(cfg))
	if err != nil {
		return nil, fmt.Errorf("start alerts: %w", err)
	}
	w := &watched{
		client: client, changed: make(chan struct{}, 1), refused: map[string]refusal{},
		rules:      dynamicinformer.NewDynamicSharedInformerFactory(custom, 0),
		namespaces: metadatainformer.NewSharedInformerFactory(metadataOnly, 0),
		secrets: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(platform.SystemNamespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName).String()
			})),
	}
	touch := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.touch() }, DeleteFunc: func(any) { w.touch() }, UpdateFunc: func(_, _ any) { w.touch() },
	}
	for _, i := range []cache.SharedInformer{w.ruleInformer(), w.namespaceInformer(), w.secretInformer()} {
		if _, err := i.AddEventHandler(touch); err != nil {
			return nil, fmt.Errorf("start alerts: %w", err)
		}
	}
	return w, nil
}

func (w *watched) ruleInformer() cache.SharedIndexInformer {
	return w.rules.ForResource(prometheusRules).Informer()
}
func (w *watched) namespaceInformer() cache.SharedIndexInformer {
	return w.namespaces.ForResource(namespaces).Informer()
}
func (w *watched) secretInformer() cache.SharedIndexInformer {
	return w.secrets.Core().V1().Secrets().Informer()
}

func (w *watched) touch() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *watched) refusals() []refusal {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []refusal{}
	for _, r := range w.refused {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b refusal) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// settle is how long changes are collected before they have an effect.
const settle = 200 * time.Millisecond

// follow keeps rules and configuration as the API has them until ctx ends.
func (s *Service) follow(ctx context.Context, w *watched, m *alertmanager.Manager) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: w.client.CoreV1().Events("")})
	w.events = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "gantry-alerts"})
	w.rules.Start(ctx.Done())
	w.namespaces.Start(ctx.Done())
	w.secrets.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), w.ruleInformer().HasSynced, w.namespaceInformer().HasSynced, w.secretInformer().HasSynced) {
		return nil
	}
	var appliedRules, appliedConfig string
	for {
		refused := map[string]refusal{}
		files, version := w.ruleFiles(refused)
		if version != appliedRules {
			s.rules.replace(files)
			appliedRules = version
		}
		if version := w.configVersion(); version != appliedConfig {
			if err := w.configure(m, refused); err != nil {
				return err
			}
			appliedConfig = version
		} else if before, still := w.refusedConfig(); still {
			refused[before.key()] = before
		}
		s.manager.Store(m)
		w.tell(s, refused)
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

// ruleFiles are the rules of all objects that have no fault, and a text that changes when they do.
func (w *watched) ruleFiles(refused map[string]refusal) ([]ruleset.File, string) {
	var files []ruleset.File
	version := []string{"rules"}
	for _, o := range w.ruleInformer().GetStore().List() {
		object := o.(*unstructured.Unstructured)
		f, err := w.ruleFile(object)
		if err != nil {
			r := refusal{"PrometheusRule", object.GetNamespace(), object.GetName(), err.Error()}
			refused[r.key()] = r
			continue
		}
		files = append(files, f)
		version = append(version, fmt.Sprint(f.Name, object.GetUID(), object.GetGeneration()))
	}
	slices.SortFunc(files, func(a, b ruleset.File) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(version)
	return files, strings.Join(version, "\n")
}

func (w *watched) ruleFile(object *unstructured.Unstructured) (ruleset.File, error) {
	f, err := ruleset.FromObject(object)
	if err != nil {
		return f, err
	}
	f = f.Bounded()
	if w.seesCluster(object.GetNamespace()) {
		return f.OfCluster(), nil
	}
	return f.Confined(object.GetNamespace())
}

// seesCluster says whether rules of a namespace see all samples.
func (w *watched) seesCluster(namespace string) bool {
	if o, known, _ := w.namespaceInformer().GetStore().GetByKey(namespace); known {
		if scope := o.(*metav1.PartialObjectMetadata).Labels[ScopeLabel]; scope != "" {
			return scope == "cluster"
		}
	}
	return slices.Contains(ofCluster, namespace)
}

// secret is the configuration of Alertmanager, or nil.
func (w *watched) secret() *corev1.Secret {
	o, known, _ := w.secretInformer().GetStore().GetByKey(platform.SystemNamespace + "/" + SecretName)
	if !known {
		return nil
	}
	return o.(*corev1.Secret)
}

// configVersion changes when the configuration does.
func (w *watched) configVersion() string {
	if s := w.secret(); s != nil {
		return string(s.UID) + s.ResourceVersion
	}
	return "default"
}

// configure puts the configuration in force, or the default one if there is none. One with a fault leaves the one
// before; the first one of a process then is the default.
func (w *watched) configure(m *alertmanager.Manager, refused map[string]refusal) error {
	if secret := w.secret(); secret != nil {
		err := apply(m, secret)
		if err == nil {
			return nil
		}
		r := refusal{"Secret", secret.Namespace, secret.Name, err.Error()}
		refused[r.key()] = r
		if m.Configured() != nil {
			return nil
		}
	}
	cfg, err := alertmanager.Load(alertmanager.Default())
	if err == nil {
		err = m.Apply(cfg, nil)
	}
	if err != nil {
		return fmt.Errorf("apply the default configuration of alerts: %w", err)
	}
	return nil
}

func apply(m *alertmanager.Manager, secret *corev1.Secret) error {
	text, here := secret.Data[ConfigKey]
	if !here {
		return fmt.Errorf("it has no key %s", ConfigKey)
	}
	cfg, err := alertmanager.Load(text)
	if err != nil {
		return err
	}
	return m.Apply(cfg, templatesOf(secret))
}

func templatesOf(secret *corev1.Secret) [][]byte {
	var list [][]byte
	for key, text := range secret.Data {
		if strings.HasSuffix(key, templateEnd) {
			list = append(list, text)
		}
	}
	return list
}

func (r refusal) key() string { return r.Kind + "/" + r.Namespace + "/" + r.Name }

func (w *watched) refusedConfig() (refusal, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, still := w.refused[refusal{Kind: "Secret", Namespace: platform.SystemNamespace, Name: SecretName}.key()]
	return r, still
}

// tell says of what is newly refused, at the object and in the log.
func (w *watched) tell(s *Service, refused map[string]refusal) {
	w.mu.Lock()
	before := w.refused
	w.refused = refused
	w.mu.Unlock()
	for key, r := range refused {
		if before[key] == r {
			continue
		}
		s.cfg.Log.Warn("not in force", "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "err", r.Reason)
		if o := w.object(r); o != nil {
			w.events.Eventf(o, corev1.EventTypeWarning, "Refused", "%s", r.Reason)
		}
	}
	s.refused.Set(float64(len(refused)))
}

func (w *watched) object(r refusal) runtime.Object {
	if r.Kind == "Secret" {
		if secret := w.secret(); secret != nil {
			return secret
		}
		return nil
	}
	o, known, _ := w.ruleInformer().GetStore().GetByKey(r.Namespace + "/" + r.Name)
	if !known {
		return nil
	}
	return o.(*unstructured.Unstructured)
}
