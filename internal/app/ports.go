package app

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	gatewayNamespace = "gantry-system"
	gatewayName      = "default"
	// localDomain resolves to the loopback address in every browser (RFC 6761).
	localDomain = "localhost"
	// hostsExtension is a list of host names in a service of a Compose file.
	hostsExtension = "x-gantry-hosts"
)

// otherProtocols are container ports that no web browser can talk to. A
// published port is HTTP, and goes through the gateway, unless it is one of
// these, is UDP, or says otherwise with app_protocol.
var otherProtocols = []uint32{
	21, 22, 23, 25, 53, 110, 143, 389, 465, 587, 636, 993, 995, 1433, 1521, 1883, 2181, 2379, 3306, 4222,
	5432, 5433, 5671, 5672, 6379, 6432, 7687, 8883, 9042, 9092, 9094, 11211, 26379, 27017, 33060,
}

func isHTTP(p types.ServicePortConfig) bool {
	switch strings.ToLower(p.AppProtocol) {
	case "http", "http2", "h2c", "ws", "grpc", "kubernetes.io/h2c", "kubernetes.io/ws":
		return true
	case "":
		return p.Protocol != "udp" && !slices.Contains(otherProtocols, p.Target)
	}
	return false
}

// loopbackOnly tells a port that must not be reachable from other machines.
func loopbackOnly(p types.ServicePortConfig) bool {
	ip, err := netip.ParseAddr(p.HostIP)
	return err == nil && ip.IsLoopback()
}

// services makes the Services under whose names others find this one: with the
// declared ports, or headless when none is declared, because in Compose every
// port of a container is reachable.
func (c *compose) services(s types.ServiceConfig) error {
	ports, err := c.servicePorts(s)
	if err != nil {
		return err
	}
	for _, name := range append([]string{c.names[s.Name]}, c.aliases(s)...) {
		svc := &corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.selector(s.Name)},
			Spec:       corev1.ServiceSpec{Selector: c.selector(s.Name), Ports: ports},
		}
		if len(ports) == 0 {
			svc.Spec.ClusterIP = corev1.ClusterIPNone
		}
		if err := c.add(0, "services."+s.Name, svc); err != nil {
			return err
		}
	}
	return c.publish(s)
}

// servicePorts are the targets of ports and expose, each once.
func (c *compose) servicePorts(s types.ServiceConfig) ([]corev1.ServicePort, error) {
	var ports []corev1.ServicePort
	add := func(port int32, protocol corev1.Protocol, app string) {
		p := corev1.ServicePort{
			Name: fmt.Sprintf("%s-%d", strings.ToLower(string(protocol)), port),
			Port: port, TargetPort: intstr.FromInt32(port), Protocol: protocol,
		}
		if app != "" {
			p.AppProtocol = &app
		}
		if !slices.ContainsFunc(ports, func(o corev1.ServicePort) bool { return o.Name == p.Name }) {
			ports = append(ports, p)
		}
	}
	for _, p := range s.Ports {
		add(int32(p.Target), protocol(p.Protocol), p.AppProtocol)
	}
	for i, e := range s.Expose {
		text, proto, _ := strings.Cut(e, "/")
		low, high, isRange := strings.Cut(text, "-")
		if !isRange {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return nil, fmt.Errorf("%s: services.%s.expose[%d]: %q is not a port or a range of ports", c.file, s.Name, i, e)
		}
		for port := from; port <= to; port++ {
			add(int32(port), protocol(proto), "")
		}
	}
	return ports, nil
}

// aliases are the further names of a service: container_name, network aliases,
// and what others call it in links.
func (c *compose) aliases(s types.ServiceConfig) []string {
	var names []string
	add := func(name string) {
		name = dnsLabel(name)
		_, isService := c.project.Services[name]
		if name != c.names[s.Name] && !isService && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if s.ContainerName != "" {
		add(s.ContainerName)
	}
	for _, network := range s.NetworksByPriority() {
		if config := s.Networks[network]; config != nil {
			for _, alias := range config.Aliases {
				add(alias)
			}
		}
	}
	for _, other := range c.project.ServiceNames() {
		for _, link := range c.project.Services[other].Links {
			if target, alias, ok := strings.Cut(link, ":"); ok && target == s.Name {
				add(alias)
			}
		}
	}
	slices.Sort(names)
	return names
}

// publish opens the host ports of protocols other than HTTP.
func (c *compose) publish(s types.ServiceConfig) error {
	var ports []corev1.ServicePort
	for i, p := range s.Ports {
		field := fmt.Sprintf("%s: services.%s.ports[%d]", c.file, s.Name, i)
		if loopbackOnly(p) {
			c.app.warnf("%s: %s:%s is for this machine alone and is not opened: use `kubectl -n %s port-forward service/%s %s:%d`",
				field, p.HostIP, p.Published, c.app.Namespace, c.names[s.Name], orDefault(p.Published, fmt.Sprint(p.Target)), p.Target)
			continue
		}
		if isHTTP(p) {
			continue
		}
		published, err := strconv.ParseUint(orDefault(p.Published, fmt.Sprint(p.Target)), 10, 16)
		if err != nil || published == 0 {
			return hint.Wrap(fmt.Errorf("%s.published: %q is not a port", field, p.Published), "write one entry per port")
		}
		if ip, err := netip.ParseAddr(p.HostIP); err == nil && !ip.IsUnspecified() {
			c.app.warnf("%s.host_ip: %s has no effect: the port is opened on every address", field, p.HostIP)
		}
		ports = append(ports, corev1.ServicePort{
			Name: fmt.Sprintf("%s-%d", strings.ToLower(string(protocol(p.Protocol))), published),
			Port: int32(published), TargetPort: intstr.FromInt32(int32(p.Target)), Protocol: protocol(p.Protocol),
		})
	}
	if len(ports) == 0 {
		return nil
	}
	return c.add(0, "services."+s.Name+".ports", &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: c.names[s.Name] + "-published", Labels: c.selector(s.Name)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: c.selector(s.Name), Ports: ports},
	})
}

// web is one HTTP port that people open in a browser.
type web struct {
	service   string
	port      types.ServicePortConfig
	published uint64
	first     bool // of its service
}

// routes publishes HTTP ports through the default Gateway by host name:
// SERVICE.PROJECT.localhost, further ports of a service as SERVICE-PORT.…, and the
// service with the lowest published port as PROJECT.localhost too.
func (c *compose) routes() error {
	var all []web
	for _, name := range c.project.ServiceNames() {
		first := true
		for _, p := range c.project.Services[name].Ports {
			if !isHTTP(p) || loopbackOnly(p) || c.isJob(c.project.Services[name]) {
				continue
			}
			published, err := strconv.ParseUint(p.Published, 10, 16)
			if err != nil {
				published = 1 << 16 // no port of its own: last
			}
			all = append(all, web{service: name, port: p, published: published, first: first})
			first = false
		}
	}
	if len(all) == 0 {
		return nil
	}
	front := slices.MinFunc(all, func(a, b web) int { return int(a.published) - int(b.published) })
	for _, w := range all {
		if err := c.route(w, w.service == front.service && w.port.Target == front.port.Target); err != nil {
			return err
		}
	}
	return nil
}

func (c *compose) route(w web, front bool) error {
	name := c.names[w.service]
	if !w.first {
		name += fmt.Sprintf("-%d", w.port.Target)
	}
	var hosts []gatewayv1.Hostname
	if front {
		hosts = append(hosts, gatewayv1.Hostname(c.app.Namespace+"."+localDomain))
	}
	hosts = append(hosts, gatewayv1.Hostname(name+"."+c.app.Namespace+"."+localDomain))
	if w.first {
		own, err := c.ownHosts(w.service)
		if err != nil {
			return err
		}
		hosts = append(own, hosts...)
	}
	namespace := gatewayv1.Namespace(gatewayNamespace)
	return c.add(0, "services."+w.service+".ports", &gatewayv1.HTTPRoute{
		TypeMeta:   metav1.TypeMeta{APIVersion: gatewayv1.GroupVersion.String(), Kind: "HTTPRoute"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.selector(w.service)},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Namespace: &namespace, Name: gatewayName}}},
			Hostnames:       hosts,
			Rules: []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
				BackendObjectReference: gatewayv1.BackendObjectReference{
					Name: gatewayv1.ObjectName(c.names[w.service]), Port: new(gatewayv1.PortNumber(w.port.Target)),
				},
			}}}}},
		},
	})
}

// ownHosts reads the host names that the file gives a service.
func (c *compose) ownHosts(service string) ([]gatewayv1.Hostname, error) {
	value, ok := c.project.Services[service].Extensions[hostsExtension]
	if !ok {
		return nil, nil
	}
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: services.%s.%s: must be a list of host names", c.file, service, hostsExtension)
	}
	var hosts []gatewayv1.Hostname
	for _, v := range list {
		hosts = append(hosts, gatewayv1.Hostname(fmt.Sprint(v)))
	}
	return hosts, nil
}

func containerPorts(s types.ServiceConfig) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, p := range s.Ports {
		port := corev1.ContainerPort{ContainerPort: int32(p.Target), Protocol: protocol(p.Protocol)}
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

func protocol(name string) corev1.Protocol {
	if name == "" {
		return corev1.ProtocolTCP
	}
	return corev1.Protocol(strings.ToUpper(name))
}
