// Package catalog is the present list of services and their endpoints, indexed the
// way cluster DNS asks and the service addresses need it.
//
// It follows Services and EndpointSlices through informers. What it hands out is
// immutable and shared. Callbacks come one after the other, after the indexes have the
// change; they must not block. Only engine/network imports this package.
package catalog

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Key names a service. Both parts are lower case, as the API demands.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Service is a service with its endpoints of every state.
type Service struct {
	Key
	Spec      *corev1.ServiceSpec
	Status    *corev1.ServiceStatus
	Endpoints []Endpoint
}

// Endpoint is one address behind a service.
type Endpoint struct {
	Addr                        netip.Addr
	Hostname                    string // from the pod, or its dashed address
	Ready, Serving, Terminating bool
	Ports                       []discoveryv1.EndpointPort
}

// Headless reports whether the service has no address of its own.
func (s *Service) Headless() bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP == corev1.ClusterIPNone
}

// Catalog holds the indexes.
type Catalog struct {
	factory  informers.SharedInformerFactory
	onChange func(Key)
	synced   chan struct{}

	mu         sync.RWMutex // guards following
	specs      map[Key]*corev1.Service
	slices     map[Key]map[string]*discoveryv1.EndpointSlice
	services   map[Key]*Service
	byIP       map[netip.Addr][]Key // cluster addresses and endpoint addresses
	namespaces map[string]int       // services per namespace
}

// New returns a catalog that calls onChange for every service that changed.
func New(client kubernetes.Interface, onChange func(Key)) *Catalog {
	drop := func(obj any) (any, error) {
		if m, err := meta.Accessor(obj); err == nil {
			m.SetManagedFields(nil)
		}
		return obj, nil
	}
	return &Catalog{
		factory:  informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(drop)),
		onChange: onChange, synced: make(chan struct{}),
		specs: map[Key]*corev1.Service{}, slices: map[Key]map[string]*discoveryv1.EndpointSlice{},
		services: map[Key]*Service{}, byIP: map[netip.Addr][]Key{}, namespaces: map[string]int{},
	}
}

// Run follows the API until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	svc, err := c.factory.Core().V1().Services().Informer().AddEventHandler(handler(c.setService, c.deleteService))
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	eps, err := c.factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler(c.setSlice, c.deleteSlice))
	if err != nil {
		return fmt.Errorf("watch endpoint slices: %w", err)
	}
	c.factory.Start(ctx.Done())
	defer c.factory.Shutdown()
	// client-go's WaitForCacheSync looks every 100 ms, a tenth of our whole start.
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
			if svc.HasSynced() && eps.HasSynced() {
				tick.Stop()
				close(c.synced)
				<-ctx.Done()
				return nil
			}
		}
	}
}

// Synced is closed once the catalog has everything that existed when it started.
func (c *Catalog) Synced() <-chan struct{} { return c.synced }

func handler[T any](set, del func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(T)) },
		UpdateFunc: func(_, obj any) { set(obj.(T)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if t, ok := obj.(T); ok {
				del(t)
			}
		},
	}
}

func (c *Catalog) setService(s *corev1.Service) {
	c.change(Key{s.Namespace, s.Name}, func(k Key) { c.specs[k] = s })
}

func (c *Catalog) deleteService(s *corev1.Service) {
	c.change(Key{s.Namespace, s.Name}, func(k Key) { delete(c.specs, k) })
}

func (c *Catalog) setSlice(s *discoveryv1.EndpointSlice) {
	name, ok := s.Labels[discoveryv1.LabelServiceName]
	if !ok || s.AddressType != discoveryv1.AddressTypeIPv4 {
		return
	}
	c.change(Key{s.Namespace, name}, func(k Key) {
		if c.slices[k] == nil {
			c.slices[k] = map[string]*discoveryv1.EndpointSlice{}
		}
		c.slices[k][s.Name] = s
	})
}

func (c *Catalog) deleteSlice(s *discoveryv1.EndpointSlice) {
	name := s.Labels[discoveryv1.LabelServiceName]
	c.change(Key{s.Namespace, name}, func(k Key) {
		delete(c.slices[k], s.Name)
		if len(c.slices[k]) == 0 {
			delete(c.slices, k)
		}
	})
}

// change applies a change of the inputs and brings the indexes up to date.
func (c *Catalog) change(k Key, apply func(Key)) {
	c.mu.Lock()
	apply(k)
	if old := c.services[k]; old != nil {
		c.unindex(old)
		delete(c.services, k)
	}
	spec := c.specs[k]
	if spec != nil {
		s := &Service{Key: k, Spec: &spec.Spec, Status: &spec.Status, Endpoints: endpoints(c.slices[k])}
		c.services[k] = s
		c.index(s)
	}
	c.mu.Unlock()
	c.onChange(k)
}

func (s *Service) addresses() map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	if ip, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
		all[ip] = true
	}
	for _, e := range s.Endpoints {
		all[e.Addr] = true
	}
	return all
}

func (c *Catalog) index(s *Service) {
	c.namespaces[s.Namespace]++
	for ip := range s.addresses() {
		c.byIP[ip] = append(c.byIP[ip], s.Key)
	}
}

func (c *Catalog) unindex(s *Service) {
	if c.namespaces[s.Namespace]--; c.namespaces[s.Namespace] == 0 {
		delete(c.namespaces, s.Namespace)
	}
	for ip := range s.addresses() {
		var rest []Key
		for _, k := range c.byIP[ip] {
			if k != s.Key {
				rest = append(rest, k)
			}
		}
		if len(rest) == 0 {
			delete(c.byIP, ip)
		} else {
			c.byIP[ip] = rest
		}
	}
}

// endpoints joins the slices of one service. An address that two slices carry, as
// happens while the controller moves it, counts once per set of ports.
func endpoints(slices map[string]*discoveryv1.EndpointSlice) []Endpoint {
	var out []Endpoint
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !addr.Is4() {
				continue
			}
			ep := Endpoint{
				Addr: addr, Ports: s.Ports,
				Ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
				Terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
			}
			ep.Serving = ep.Ready
			if e.Conditions.Serving != nil {
				ep.Serving = *e.Conditions.Serving
			}
			if e.Hostname != nil && *e.Hostname != "" {
				ep.Hostname = strings.ToLower(*e.Hostname)
			} else {
				ep.Hostname = strings.ReplaceAll(addr.String(), ".", "-")
			}
			out = append(out, ep)
		}
	}
	return out
}

// Get returns the service, or nil.
func (c *Catalog) Get(k Key) *Service {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.services[k]
}

// All returns every service.
func (c *Catalog) All() []*Service {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*Service, 0, len(c.services))
	for _, s := range c.services {
		out = append(out, s)
	}
	return out
}

// ByIP returns the services that have the address themselves or as an endpoint.
func (c *Catalog) ByIP(ip netip.Addr) []*Service {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []*Service
	for _, k := range c.byIP[ip] {
		out = append(out, c.services[k])
	}
	return out
}

// HasNamespace reports whether the namespace has a service.
func (c *Catalog) HasNamespace(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.namespaces[name] > 0
}
