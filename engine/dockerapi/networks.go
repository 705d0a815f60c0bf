package dockerapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// networkRecord is a network that somebody made.
type networkRecord struct {
	ID       string
	Name     string
	Created  time.Time
	Driver   string
	Internal bool
	Labels   map[string]string
	Options  map[string]string
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// builtIn are the networks that are always there.
func (s *Server) builtIn(name string) *networkRecord {
	switch name {
	case network.NetworkBridge, network.NetworkDefault:
		name = network.NetworkBridge
		return &networkRecord{ID: hash(s.id+name) + hash(name+s.id), Name: name, Driver: "bridge"}
	case network.NetworkHost:
		return &networkRecord{ID: hash(s.id+name) + hash(name+s.id), Name: name, Driver: "host"}
	case network.NetworkNone:
		return &networkRecord{ID: hash(s.id+name) + hash(name+s.id), Name: name, Driver: "null"}
	}
	return nil
}

func (s *Server) allBuiltIn() []*networkRecord {
	return []*networkRecord{s.builtIn(network.NetworkBridge), s.builtIn(network.NetworkHost), s.builtIn(network.NetworkNone)}
}

func (s *Server) findNetwork(ref string) (*networkRecord, error) {
	if n := s.builtIn(ref); n != nil {
		return n, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*networkRecord
	all := s.allBuiltIn()
	for _, n := range s.networks {
		all = append(all, n)
	}
	for _, n := range all {
		if n.Name == ref || n.ID == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			found = append(found, n)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return nil, notFound("network %s not found", ref)
}

// networkLabel marks the pods in a network.
func (s *Server) networkLabel(name string) string {
	n, err := s.findNetwork(name)
	if err != nil {
		return labelNetwork + "unknown"
	}
	return labelNetwork + short(n.ID)
}

// networkService is the Service under whose name the containers' names are found.
func networkService(n *networkRecord) string { return "network-" + short(n.ID) }

// networkDomain is the search domain of a network; the default one has no names, as ever.
func (s *Server) networkDomain(name string) string {
	n, err := s.findNetwork(name)
	if err != nil || s.builtIn(n.Name) != nil {
		return ""
	}
	return networkService(n) + "." + Namespace + ".svc.cluster.local"
}

// chooseNetworks reads which networks a container shall be in.
func (s *Server) chooseNetworks(r *record, asked *network.NetworkingConfig) error {
	mode := string(r.HostConfig.NetworkMode)
	if mode == "" || mode == network.NetworkDefault {
		mode = network.NetworkBridge
		r.HostConfig.NetworkMode = network.NetworkBridge
	}
	if r.HostConfig.NetworkMode.IsContainer() {
		return nil // it has that container's
	}
	if r.Config.NetworkDisabled {
		mode, r.HostConfig.NetworkMode = network.NetworkNone, network.NetworkNone
	}
	n, err := s.findNetwork(mode)
	if err != nil {
		return err
	}
	r.Networks[n.Name] = &network.EndpointSettings{}
	if asked == nil {
		return nil
	}
	for name, e := range asked.EndpointsConfig {
		n, err := s.findNetwork(name)
		if err != nil {
			return err
		}
		if err := s.checkEndpoint(n, e); err != nil {
			return err
		}
		r.Networks[n.Name] = e.Copy()
		if r.Networks[n.Name] == nil {
			r.Networks[n.Name] = &network.EndpointSettings{}
		}
	}
	if len(r.Networks) > 1 && (r.HostConfig.NetworkMode.IsHost() || r.HostConfig.NetworkMode.IsNone()) {
		return invalid("conflicting options: network %s can't be used with other networks", r.HostConfig.NetworkMode)
	}
	return nil
}

// checkEndpoint refuses what the one network of pods does not give.
func (s *Server) checkEndpoint(n *networkRecord, e *network.EndpointSettings) error {
	switch {
	case e == nil:
		return nil
	case e.IPAMConfig != nil && (e.IPAMConfig.IPv4Address.IsValid() || e.IPAMConfig.IPv6Address.IsValid() || len(e.IPAMConfig.LinkLocalIPs) > 0):
		return invalid("--ip, --ip6 and --link-local-ip are not possible: pods get theirs from the instance's range; containers of a user-defined network reach each other by name")
	case len(e.MacAddress) > 0:
		return invalid("--mac-address is not possible: the network of pods chooses addresses")
	case len(e.DriverOpts) > 0:
		return invalid("options of the network driver (driver-opt) are not possible for a container: all networks are views of the one network of pods")
	case len(e.Links) > 0:
		return invalid("links are not possible: containers of one user-defined network reach each other by name")
	case len(e.Aliases) > 0 && s.builtIn(n.Name) != nil:
		return invalid("network-scoped aliases are only supported for user-defined networks")
	}
	return nil
}

func (s *Server) networkRoutes() map[string]handler {
	return map[string]handler{
		"GET /networks":                  s.serveNetworks,
		"GET /networks/{id}":             s.serveNetwork,
		"POST /networks/create":          s.serveNetworkCreate,
		"POST /networks/prune":           s.serveNetworksPrune,
		"POST /networks/{id}/connect":    s.serveConnect,
		"POST /networks/{id}/disconnect": s.serveDisconnect,
		"DELETE /networks/{id}":          s.serveNetworkRemove,
	}
}

// networkOf is a network as docker tells it.
func (s *Server) networkOf(n *networkRecord) network.Inspect {
	out := network.Inspect{Containers: map[string]network.EndpointResource{}, Network: network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: true, Internal: n.Internal,
		Options: merged(n.Options, nil), Labels: merged(n.Labels, nil), IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}},
	}}
	if n.Driver == "bridge" {
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: s.cfg.PodCIDR, Gateway: s.cfg.HostIP})
	}
	for _, c := range s.all() {
		s.mu.Lock()
		r, pod := c.rec, c.pod
		s.mu.Unlock()
		if _, is := r.Networks[n.Name]; !is || !stateOf(&r, pod).running() {
			continue
		}
		e := network.EndpointResource{Name: r.Name, EndpointID: hash(r.ID+n.Name) + hash(n.Name+r.ID)}
		if ip, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
			e.IPv4Address = netip.PrefixFrom(ip, s.cfg.PodCIDR.Bits())
		}
		out.Containers[r.ID] = e
	}
	return out
}

func (s *Server) allNetworks() []*networkRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.allBuiltIn()
	for _, n := range s.networks {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *networkRecord) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// networkUsers are the containers in a network, running or not.
func (s *Server) networkUsers(n *networkRecord) (ids []string) {
	for _, c := range s.all() {
		if r := s.recordOf(c); r.Networks[n.Name] != nil {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

func (s *Server) serveNetworks(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("dangling", "driver", "id", "label", "name", "scope", "type")
	}
	if err != nil {
		return err
	}
	out := []network.Inspect{}
	for _, n := range s.allNetworks() {
		custom := s.builtIn(n.Name) == nil
		dangling, asked := f.flag("dangling")
		if asked && (dangling != (len(s.networkUsers(n)) == 0) || dangling && !custom) {
			continue
		}
		if f.any("driver", func(v string) bool { return v == n.Driver }) && f.any("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }) &&
			f.any("name", func(v string) bool {
				return strings.Contains(n.Name, strings.TrimSuffix(strings.TrimPrefix(v, "^"), "$"))
			}) &&
			f.any("scope", func(v string) bool { return v == "local" }) && f.labels("label", n.Labels) &&
			f.any("type", func(v string) bool { return (v == "custom") == custom }) {
			out = append(out, s.networkOf(n))
		}
	}
	return ok(w, out)
}

func (s *Server) serveNetwork(w http.ResponseWriter, r *http.Request) error {
	n, err := s.findNetwork(r.PathValue("id"))
	if err != nil {
		return err
	}
	return ok(w, s.networkOf(n))
}

func (s *Server) serveNetworkCreate(w http.ResponseWriter, r *http.Request) error {
	var req network.CreateRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	switch {
	case req.Name == "" || strings.ContainsAny(req.Name, "/ "):
		return invalid("invalid network name %q", req.Name)
	case req.Driver != "" && req.Driver != "bridge":
		return notFound("network driver %s is not possible: all networks are views of the one network of pods (bridge)", req.Driver)
	case s.builtIn(req.Name) != nil:
		return &apiError{http.StatusForbidden, fmt.Sprintf("operation is not permitted on predefined %s network", req.Name)}
	case req.EnableIPv6 != nil && *req.EnableIPv6:
		return invalid("IPv6 is not possible: pods have IPv4 addresses")
	case req.IPAM != nil && (len(req.IPAM.Config) > 0 || req.IPAM.Driver != "" && req.IPAM.Driver != "default"):
		return invalid("a subnet of its own is not possible: all networks share the range of pods, %s, and are kept apart by policy", s.cfg.PodCIDR)
	case len(req.Options) > 0:
		return invalid("--opt %s is not possible: all networks are views of the one network of pods; --internal is one that leads nowhere", sortedKeys(req.Options)[0])
	case req.Ingress || req.ConfigOnly || req.ConfigFrom != nil:
		return invalid("networks of Swarm are not possible")
	}
	n := &networkRecord{ID: randomID(), Name: req.Name, Created: time.Now().UTC(), Driver: "bridge", Internal: req.Internal, Labels: req.Labels, Options: req.Options}
	s.mu.Lock()
	for _, other := range s.networks {
		if other.Name == n.Name {
			s.mu.Unlock()
			return conflict("network with name %s already exists", n.Name)
		}
	}
	s.networks[n.ID] = n
	s.mu.Unlock()
	if err := s.makeNetwork(r.Context(), n); err != nil {
		_ = s.unmakeNetwork(context.WithoutCancel(r.Context()), n)
		return fmt.Errorf("make network %s: %w", n.Name, err)
	}
	s.event(events.NetworkEventType, events.ActionCreate, n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	answer(w, http.StatusCreated, network.CreateResponse{ID: n.ID})
	return nil
}

func (s *Server) serveNetworkRemove(w http.ResponseWriter, r *http.Request) error {
	n, err := s.findNetwork(r.PathValue("id"))
	if err != nil {
		return err
	}
	if s.builtIn(n.Name) != nil {
		return &apiError{http.StatusForbidden, fmt.Sprintf("%s is a pre-defined network and cannot be removed", n.Name)}
	}
	if err := s.removeNetwork(r.Context(), n); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) removeNetwork(ctx context.Context, n *networkRecord) error {
	for _, c := range s.all() {
		r, st := s.recordOf(c), s.current(c)
		if r.Networks[n.Name] != nil && (st.running() || st.status == types.StateRestarting) {
			return &apiError{http.StatusForbidden, fmt.Sprintf("error while removing network: network %s has active endpoints (name:%q)", n.Name, r.Name)}
		}
	}
	if err := s.unmakeNetwork(ctx, n); err != nil {
		return fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	s.event(events.NetworkEventType, events.ActionDestroy, n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return nil
}

func (s *Server) serveNetworksPrune(w http.ResponseWriter, r *http.Request) error {
	f, until, err := pruneFilters(r)
	if err != nil {
		return err
	}
	report := network.PruneReport{NetworksDeleted: []string{}}
	for _, n := range s.allNetworks() {
		if s.builtIn(n.Name) != nil || !f.labels("label", n.Labels) || !f.withoutLabels(n.Labels) || !until.IsZero() && n.Created.After(until) || len(s.networkUsers(n)) > 0 {
			continue
		}
		if err := s.removeNetwork(r.Context(), n); err != nil {
			return err
		}
		report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
	}
	s.event(events.NetworkEventType, events.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return ok(w, report)
}

func (s *Server) serveConnect(w http.ResponseWriter, r *http.Request) error {
	n, err := s.findNetwork(r.PathValue("id"))
	if err != nil {
		return err
	}
	var req network.ConnectRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if err := s.checkEndpoint(n, req.EndpointConfig); err != nil {
		return err
	}
	endpoint := req.EndpointConfig.Copy()
	if endpoint == nil {
		endpoint = &network.EndpointSettings{}
	}
	return s.rewire(w, r, n, req.Container, events.ActionConnect, func(rec *record) error {
		if m := rec.HostConfig.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() || n.Driver != "bridge" {
			return invalid("cannot connect container to host network - container must be created in host network mode")
		}
		rec.Networks[n.Name] = endpoint
		return nil
	})
}

func (s *Server) serveDisconnect(w http.ResponseWriter, r *http.Request) error {
	n, err := s.findNetwork(r.PathValue("id"))
	if err != nil {
		return err
	}
	var req network.DisconnectRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	return s.rewire(w, r, n, req.Container, events.ActionDisconnect, func(rec *record) error {
		if rec.Networks[n.Name] == nil {
			return invalid("container %s is not connected to network %s", rec.Name, n.Name)
		}
		if n.Driver == "host" {
			return invalid("container cannot be disconnected from host network")
		}
		delete(rec.Networks, n.Name)
		return nil
	})
}

// rewire changes the networks of a container, at once if it runs.
func (s *Server) rewire(w http.ResponseWriter, r *http.Request, n *networkRecord, ref string, action events.Action, apply func(*record) error) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	wanted := s.recordOf(c)
	wanted.Networks = map[string]*network.EndpointSettings{}
	for k, v := range s.recordOf(c).Networks {
		wanted.Networks[k] = v
	}
	if err := apply(&wanted); err != nil {
		return err
	}
	if err := s.change(r.Context(), c, func(rec *record) { rec.Networks = wanted.Networks }); err != nil {
		return err
	}
	if wanted.Pod != "" {
		value := "null"
		if wanted.Networks[n.Name] != nil {
			value = `"true"`
		}
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, labelNetwork+short(n.ID), value)
		_, err := s.client.CoreV1().Pods(Namespace).Patch(r.Context(), wanted.Pod, "application/merge-patch+json", patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s network %s: %w", action, n.Name, err)
		}
	}
	s.publishNames(r.Context(), n)
	s.event(events.NetworkEventType, action, n.ID, map[string]string{"container": wanted.ID, "name": n.Name, "type": n.Driver})
	w.WriteHeader(http.StatusOK)
	return nil
}
