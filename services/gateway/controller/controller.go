// Package controller keeps the gateway's data plane and the statuses of Gateway
// API objects and Ingresses in step with the Kubernetes API.
//
// Watches: Gateway, GatewayClass, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute,
// TCPRoute, ReferenceGrant, BackendTLSPolicy, Ingress, IngressClass, Service,
// EndpointSlice, Namespace, ConfigMaps (of which it keeps authorities and key
// sets), Secrets of types kubernetes.io/tls and gantry.dev/credentials,
// AccessPolicy, BackendPolicy, ScalePolicy and TrafficPolicy. Writes: the status of
// GatewayClass, Gateway, ListenerSet, the routes, Ingress and policies, Secrets
// with certificates that were got by ACME, and events of Ingresses; nothing else.
//
// It is level-triggered: an event only says that something must be computed
// again from the caches. Three loops run side by side so that none waits for
// another: endpoints to the data plane, routes to the data plane, statuses to
// the API. While the API is away the data plane keeps what it has.
//
// Imported by services/gateway only.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/services/gateway/acme"
	"github.com/gantryhq/gantry/services/gateway/proxy"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// coalesce is how long events are gathered before they are acted upon. A
// rolling update changes many slices within a millisecond.
const coalesce = time.Millisecond

// retryAfter is when a port that could not be opened, or a status that could
// not be written, is tried again.
const retryAfter = time.Second

// Config is what a Controller works with.
type Config struct {
	Kube    kubernetes.Interface
	Gateway gatewayclient.Interface
	// Own reads and writes Gantry's own kinds; nil is without them.
	Own   *apiclient.Client
	Proxy *proxy.Server
	// Addresses of the machine that statuses show for sockets bound to all.
	Addresses []netip.Addr
	// AddressPool is where Gateways get addresses of their own from, if it is valid.
	AddressPool netip.Prefix
	Authorities *http.Client // reaches certificate authorities; nil is http.DefaultClient
	Log         *slog.Logger // or nil for slog.Default()
}

// Controller is one running controller.
type Controller struct {
	cfg        Config
	log        *slog.Logger
	caches     *caches
	translator *translate.Translator
	issuer     *acme.Manager
	ready      chan struct{}

	retiring context.Context // ends with Retire
	retire   context.CancelFunc
	leading  sync.WaitGroup // of the loops that Retire ends

	endpoints, routes, statuses signal

	mu       sync.Mutex
	services map[types.NamespacedName]bool // guarded by mu: whose endpoints may have changed
	change   translate.Change              // guarded by mu: what is to be translated
	all      bool                          // guarded by mu: that is everything
	latest   *outcome                      // guarded by mu: what the statuses should say
	unsaid   unsaid                        // guarded by mu: whose statuses may say something else
	// scaledBy are the Services that each ScalePolicy named last; guarded by mu.
	scaledBy map[types.NamespacedName][]types.NamespacedName

	served   map[types.NamespacedName][]route.ServicePort // endpoints loop only
	reported map[string]bool                              // statuses loop only: problems that have an event
}

// outcome is a translation and how the data plane took it.
type outcome struct {
	result *translate.Result
	where  translate.Reachable
}

// unsaid are the routes whose statuses are to be compared with the outcome.
type unsaid struct {
	routes map[translate.RouteName]bool
	all    bool
}

// New returns a controller that does nothing until Run.
func New(cfg Config) (*Controller, error) {
	c := &Controller{
		cfg:        cfg,
		log:        cmp.Or(cfg.Log, slog.Default()),
		translator: translate.New(),
		ready:      make(chan struct{}),
		endpoints:  newSignal(),
		routes:     newSignal(),
		statuses:   newSignal(),
		services:   map[types.NamespacedName]bool{},
		unsaid:     unsaid{routes: map[translate.RouteName]bool{}, all: true},
		all:        true,
		scaledBy:   map[types.NamespacedName][]types.NamespacedName{},
		served:     map[types.NamespacedName][]route.ServicePort{},
		reported:   map[string]bool{},
	}
	c.retiring, c.retire = context.WithCancel(context.Background())
	c.translator.Pool = cfg.AddressPool
	c.issuer = acme.New(acme.Config{Kube: cfg.Kube, Challenges: &cfg.Proxy.Challenges, HTTP: cfg.Authorities, Log: c.log})
	var err error
	if c.caches, err = newCaches(cfg.Kube, cfg.Gateway, cfg.Own, c); err != nil {
		return nil, fmt.Errorf("prepare caches: %w", err)
	}
	return c, nil
}

// PoliciesChanged has the statuses of policies looked at again.
func (c *Controller) PoliciesChanged() { c.statuses.set() }

// Ready is closed once the data plane has its first configuration.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run works until ctx ends. Without an API it waits for one.
func (c *Controller) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { c.caches.run(ctx) })
	if !c.caches.wait(ctx) {
		return ctx.Err()
	}
	leading, retire := context.WithCancel(ctx)
	defer retire()
	context.AfterFunc(c.retiring, retire)
	// Endpoints first: no port opens before requests can be forwarded.
	c.syncEndpoints()
	c.syncRoutes()
	running.Go(func() { c.endpoints.loop(ctx, func() bool { c.syncEndpoints(); return true }) })
	c.leading.Go(func() { c.routes.loop(leading, c.syncRoutes) })
	c.leading.Go(func() { c.issuer.Run(leading, c.everythingChanged) })
	c.leading.Go(func() { c.statuses.loop(leading, func() bool { return c.syncStatuses(leading) }) })
	defer c.leading.Wait()
	close(c.ready)
	c.statuses.set()
	<-ctx.Done()
	return ctx.Err()
}

// Retire leaves routes and statuses to a successor and returns when neither is touched
// any more. Endpoints are followed further: connections that are left may still carry
// requests. Only for a controller that is Ready.
func (c *Controller) Retire() {
	c.retire()
	c.leading.Wait()
}

// serviceChanged notes that a Service's endpoints must be looked at again.
func (c *Controller) serviceChanged(name types.NamespacedName) {
	c.mu.Lock()
	c.services[name] = true
	c.mu.Unlock()
	c.endpoints.set()
}

// everythingChanged has all translated anew.
func (c *Controller) everythingChanged() {
	c.mu.Lock()
	c.all = true
	c.mu.Unlock()
	c.routes.set()
}

// changed has something translated anew.
func (c *Controller) changed(note func(*translate.Change)) {
	c.mu.Lock()
	note(&c.change)
	c.mu.Unlock()
	c.routes.set()
}

// routeChanged has one route translated anew.
func (c *Controller) routeChanged(kind string, name types.NamespacedName) {
	c.changed(func(change *translate.Change) {
		add(&change.Routes, translate.RouteName{Kind: kind, NamespacedName: name})
	})
}

// referenceChanged has those translated anew who refer to an object.
func (c *Controller) referenceChanged(kind string, name types.NamespacedName) {
	c.changed(func(change *translate.Change) {
		add(&change.References, translate.Reference{Kind: kind, NamespacedName: name})
	})
}

// usersChanged has the routes to a Service translated anew.
func (c *Controller) usersChanged(name types.NamespacedName) {
	c.changed(func(change *translate.Change) { add(&change.Services, name) })
}

// grantChanged has those translated anew who refer to objects of a namespace from elsewhere.
func (c *Controller) grantChanged(namespace string) {
	c.changed(func(change *translate.Change) { add(&change.Grants, namespace) })
}

// listenersChanged has the listeners found anew.
func (c *Controller) listenersChanged() {
	c.changed(func(change *translate.Change) { change.Listeners = true })
}

// policyChanged has the policies read anew.
func (c *Controller) policyChanged() {
	c.changed(func(change *translate.Change) { change.Policies = true })
}

func add[K comparable](set *map[K]bool, key K) {
	if *set == nil {
		*set = map[K]bool{}
	}
	(*set)[key] = true
}

// routeTouched has the status of a route looked at.
func (c *Controller) routeTouched(kind string, name types.NamespacedName) {
	c.mu.Lock()
	c.unsaid.routes[translate.RouteName{Kind: kind, NamespacedName: name}] = true
	c.mu.Unlock()
	c.statuses.set()
}

// syncEndpoints brings the endpoints of changed Services into the data plane.
func (c *Controller) syncEndpoints() {
	c.mu.Lock()
	names := c.services
	c.services = map[types.NamespacedName]bool{}
	c.mu.Unlock()

	policies := c.caches.backends()
	var changed []route.Upstream
	var gone []route.ServicePort
	for name := range names {
		before := map[route.ServicePort]bool{}
		for _, p := range c.served[name] {
			before[p] = true
		}
		delete(c.served, name)
		if service := c.caches.service(name); service != nil {
			scaled := c.caches.scaled(name)
			for _, u := range translate.Upstreams(service, c.caches.slices(name), policies) {
				u.Scaled = scaled
				changed = append(changed, u)
				delete(before, u.Service)
				c.served[name] = append(c.served[name], u.Service)
			}
		}
		for p := range before {
			gone = append(gone, p)
		}
	}
	c.cfg.Proxy.SetUpstreams(changed, gone)
}

// syncRoutes compiles what has changed and swaps the table. It reports whether
// every port could be opened.
func (c *Controller) syncRoutes() bool {
	result := c.translate()
	for _, p := range result.Problems {
		c.log.Warn("route not served as written", "problem", p)
	}
	where := translate.Reachable{Addresses: c.cfg.Addresses, Bindings: map[netip.AddrPort]translate.Binding{}}
	ok := true
	for port, b := range c.cfg.Proxy.SetTable(result.Table) {
		where.Bindings[port] = translate.Binding{Address: b.Address, Err: b.Err}
		if b.Err != nil {
			c.log.Error("port of the gateway is not open", "port", port, "error", b.Err)
			ok = false
		}
	}
	result.Bind(where)
	c.mu.Lock()
	c.conclude(&outcome{result, where})
	if !ok {
		c.all = true // the ports are tried again with everything
	}
	c.mu.Unlock()
	c.issuer.Want(wishes(result))
	c.statuses.set()
	return ok
}

// translate compiles what has changed since the last call.
func (c *Controller) translate() *translate.Result {
	c.mu.Lock()
	change, all := c.change, c.all
	c.change, c.all = translate.Change{}, false
	c.mu.Unlock()
	if !all {
		objects := c.caches.changed(change)
		objects.Issuing = c.issuer.State
		if result, ok := c.translator.Update(objects, change); ok {
			return result
		}
	}
	objects := c.caches.objects()
	objects.Issuing = c.issuer.State
	return c.translator.Translate(objects)
}

// conclude makes an outcome the one that statuses tell of. The caller holds mu.
func (c *Controller) conclude(o *outcome) {
	if !o.result.Partial || c.latest == nil {
		c.latest = o
		c.unsaid = unsaid{routes: map[translate.RouteName]bool{}, all: true}
		return
	}
	for name := range o.result.Routes {
		c.unsaid.routes[name] = true
	}
	o.result.Adopt(c.latest.result)
	c.latest = o
}

// wishes are the certificates to be got.
func wishes(r *translate.Result) []acme.Wish {
	list := make([]acme.Wish, len(r.Wishes))
	for i, w := range r.Wishes {
		list[i] = acme.Wish(w)
	}
	return list
}

// signal wakes a loop; many wake-ups before it runs are one.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// loop calls sync after every wake-up, and again after a while if it was not
// successful.
func (s signal) loop(ctx context.Context, sync func() bool) {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case <-s:
			select {
			case <-ctx.Done():
				return
			case <-time.After(coalesce):
			}
			// What woke us meanwhile is part of this run.
			select {
			case <-s:
			default:
			}
		}
		retry = nil
		if !sync() {
			retry = time.After(retryAfter)
		}
	}
}
