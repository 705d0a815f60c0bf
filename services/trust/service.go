package trust

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
)

// Service decides about images. It is safe for concurrent use.
type Service struct {
	cfg      Config
	kube     kubernetes.Interface
	policies *apiclient.Client
	keys     keySource
	decider  *decider
	events   record.EventRecorder // set by Run, before known is closed
	metrics  *metrics
	known    chan struct{} // closed when the policies are known for the first time

	mu      sync.RWMutex // guards following
	current map[string]*policy
}

// New sets the service up. Nothing is asked before Run.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	client := rest.CopyConfig(cfg.Client)
	client.UserAgent = "gantry-trust"
	kube, err := kubernetes.NewForConfig(client)
	if err != nil {
		return nil, fmt.Errorf("start trust: %w", err)
	}
	policies, err := apiclient.New(client)
	if err != nil {
		return nil, fmt.Errorf("start trust: %w", err)
	}
	accepted, err := openMemory(cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Service{
		cfg: cfg, kube: kube, policies: policies, keys: keys{kube}, known: make(chan struct{}), metrics: newMetrics(cfg.Register),
		decider: &decider{from: &registries{kube: kube}, accepted: accepted, now: time.Now},
		events:  record.NewFakeRecorder(0), current: map[string]*policy{},
	}, nil
}

// Run follows the policies until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.kube.CoreV1().Events("")})
	s.events = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "gantry-trust"})
	return s.follow(ctx)
}

// Check says whether a container may start from the image of a digest ("sha256:...") that a
// pod names: nil, or an error that says which policy refuses it, why, and what to do. It
// waits until the policies are known.
func (s *Service) Check(ctx context.Context, pod *corev1.Pod, image, digest string) error {
	select {
	case <-s.known:
	case <-ctx.Done():
		return ctx.Err()
	}
	covering := s.covering(image)
	if len(covering) == 0 {
		return nil
	}
	ns, err := s.kube.CoreV1().Namespaces().Get(ctx, pod.Namespace, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find out which policies cover namespace %s: %w", pod.Namespace, err)
	}
	at, err := atDigest(image, digest)
	if err != nil {
		return err
	}
	for _, p := range covering {
		if !p.coversNamespace(ns) {
			continue
		}
		err := s.decider.decide(ctx, p, at, image)
		s.metrics.count(p, "start", pod.Namespace, image, err)
		if err != nil && p.enforced() {
			return err
		}
		if err != nil {
			s.events.Eventf(pod, corev1.EventTypeWarning, reasonWarned, "%s", err)
		}
	}
	return nil
}

// covering are the policies about an image, in the order of their names.
func (s *Service) covering(image string) []*policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*policy
	for _, name := range sortedNames(s.current) {
		if p := s.current[name]; p.covers(image) {
			out = append(out, p)
		}
	}
	return out
}

func (s *Service) policy(name string) *policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current[name]
}

// Reasons of events.
const (
	reasonRefused = "ImageRefused"
	reasonWarned  = "ImageNotTrusted"
)

// list reads all policies. A cluster without the kind has none.
func (s *Service) list(ctx context.Context) (*v1alpha1.TrustPolicyList, bool, error) {
	list, err := s.policies.TrustPolicies().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return &v1alpha1.TrustPolicyList{}, false, nil
	}
	return list, true, err
}
