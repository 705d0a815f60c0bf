package dockerapi

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// published is where a container's ports are reached.
type published struct {
	ports  []v1.ContainerPort
	shared []sharedPort
	told   network.PortMap // as docker tells it
}

// sharedPort is a port of this machine that all containers of one Compose service have,
// so that replicas need not fight for it: a Service leads to them.
type sharedPort struct {
	portKey
	target int32
}

const labelPort = "port.docker.gantry.dev/"

func (p sharedPort) name() string {
	return fmt.Sprintf("port-%s-%d", strings.ToLower(string(p.protocol)), p.port)
}
func (p sharedPort) label() string { return labelPort + p.name() }

// portOwner is who has a published port: a container, or all of a Compose service.
func portOwner(r *record) (owner string, compose bool) {
	project, service := r.Config.Labels["com.docker.compose.project"], r.Config.Labels["com.docker.compose.service"]
	if project == "" || service == "" || r.Config.Labels["com.docker.compose.oneoff"] == "True" {
		return r.ID, false
	}
	return hash(project + "/" + service), true
}

// choosePorts decides which ports of this machine lead to a container, as -p and -P ask.
func (s *Server) choosePorts(r *record) (*published, error) {
	asked := network.PortMap{}
	for p, bindings := range r.HostConfig.PortBindings {
		asked[p] = bindings
		if len(bindings) == 0 {
			asked[p] = []network.PortBinding{{}}
		}
	}
	if r.HostConfig.PublishAllPorts {
		for p := range r.Config.ExposedPorts {
			if len(asked[p]) == 0 {
				asked[p] = []network.PortBinding{{}}
			}
		}
	}
	out := &published{told: network.PortMap{}}
	if m := r.HostConfig.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() {
		return out, nil // its ports are the host's anyway, or it has no address of its own
	}
	owner, compose := portOwner(r)
	taken := s.takenPorts(r.ID)
	for _, p := range sortedPorts(nil, asked) {
		protocol := v1.Protocol(strings.ToUpper(string(p.Proto())))
		if protocol == v1.ProtocolSCTP {
			return nil, invalid("publishing SCTP ports is not possible")
		}
		for _, b := range asked[p] {
			ip := b.HostIP
			if ip.IsValid() && !ip.Is4() {
				if ip.IsUnspecified() {
					continue // [::] beside 0.0.0.0, as some clients ask for
				}
				return nil, invalid("publishing on %s is not possible: ports are published on IPv4 addresses", ip)
			}
			host, err := freePort(ip, b.HostPort, protocol, taken, owner)
			if err != nil {
				return nil, err
			}
			key := portKey{protocol, host}
			taken[key] = owner
			port := v1.ContainerPort{ContainerPort: int32(p.Num()), HostPort: int32(host), Protocol: protocol}
			switch everywhere := !ip.IsValid() || ip.IsUnspecified(); {
			case everywhere && compose && b.HostPort == strconv.Itoa(host):
				port.HostPort, ip = 0, netip.IPv4Unspecified()
				out.shared = append(out.shared, sharedPort{key, port.ContainerPort})
			case everywhere:
				ip = netip.IPv4Unspecified()
			default:
				port.HostIP = ip.String()
			}
			out.ports = append(out.ports, port)
			out.told[p] = append(out.told[p], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(host)})
		}
	}
	out.ports = withoutDoubles(out.ports)
	return out, nil
}

// withoutDoubles keeps one of several equal ports: a shared one needs no host port of the pod.
func withoutDoubles(ports []v1.ContainerPort) (out []v1.ContainerPort) {
	seen := map[v1.ContainerPort]bool{}
	for _, p := range ports {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// sharePorts makes the Services of a container's shared ports.
func (s *Server) sharePorts(ctx context.Context, r *record, shared []sharedPort) error {
	owner, _ := portOwner(r)
	for _, p := range shared {
		service := &v1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: p.name(), Namespace: Namespace, Labels: map[string]string{labelKind: "port"}},
			Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(bool), PublishNotReadyAddresses: true,
				Selector: map[string]string{p.label(): owner},
				Ports:    []v1.ServicePort{{Port: int32(p.port), TargetPort: intstr.FromInt32(p.target), Protocol: p.protocol}}},
		}
		services := s.client.CoreV1().Services(Namespace)
		_, err := services.Create(ctx, service, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // a sibling's, or what a former owner has left
			var old *v1.Service
			if old, err = services.Get(ctx, p.name(), metav1.GetOptions{}); err == nil {
				old.Spec.Selector, old.Spec.Ports = service.Spec.Selector, service.Spec.Ports
				_, err = services.Update(ctx, old, metav1.UpdateOptions{})
			}
		}
		if err != nil {
			return fmt.Errorf("publish port %d: %w", p.port, err)
		}
	}
	return nil
}

// unsharePorts removes the Services of shared ports that no container has any more.
func (s *Server) unsharePorts(ctx context.Context, r *record) {
	if _, compose := portOwner(r); !compose {
		return
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	taken := s.takenPorts("")
	for p, bindings := range r.Ports {
		for _, b := range bindings {
			port, _ := strconv.Atoi(b.HostPort)
			shared := sharedPort{portKey: portKey{v1.Protocol(strings.ToUpper(string(p.Proto()))), port}}
			if taken[shared.portKey] != "" {
				continue
			}
			err := s.client.CoreV1().Services(Namespace).Delete(ctx, shared.name(), metav1.DeleteOptions{})
			if err = ignore(err, apierrors.IsNotFound); err != nil && ctx.Err() == nil {
				s.log.Warn("withdraw a published port", "port", port, "err", err)
			}
		}
	}
}

type portKey struct {
	protocol v1.Protocol
	port     int
}

// takenPorts tells who of the other containers has which port of this machine.
func (s *Server) takenPorts(except string) map[portKey]string {
	taken := map[portKey]string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.containers {
		if id == except || c.rec.Pod == "" || c.pod != nil && stateOf(&c.rec, c.pod).over() {
			continue
		}
		owner, _ := portOwner(&c.rec)
		for p, bindings := range c.rec.Ports {
			for _, b := range bindings {
				if port, err := strconv.Atoi(b.HostPort); err == nil {
					taken[portKey{v1.Protocol(strings.ToUpper(string(p.Proto()))), port}] = owner
				}
			}
		}
	}
	return taken
}

// Ports that are chosen for a client are taken from here, as the kernel does.
const firstChosen, lastChosen = 32768, 60999

// freePort finds a port of this machine that nobody has.
func freePort(ip netip.Addr, asked string, protocol v1.Protocol, taken map[portKey]string, owner string) (int, error) {
	low, high, err := portRange(asked)
	if err != nil {
		return 0, invalid("%v", err)
	}
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	if low == 0 {
		low, high = firstChosen, lastChosen
	}
	for port := low; port <= high; port++ {
		switch has := taken[portKey{protocol, port}]; {
		case has == owner && low == high:
			return port, nil // a replica's
		case has == "" && canListen(ip, port, protocol):
			return port, nil
		}
	}
	return 0, invalid("driver failed programming external connectivity on endpoint: Bind for %s failed: port is already allocated", net.JoinHostPort(ip.String(), strconv.Itoa(low)))
}

// canListen is whether no process listens there.
func canListen(ip netip.Addr, port int, protocol v1.Protocol) bool {
	at := net.JoinHostPort(ip.String(), strconv.Itoa(port))
	if protocol == v1.ProtocolUDP {
		l, err := net.ListenPacket("udp4", at)
		return err == nil && l.Close() == nil
	}
	l, err := net.Listen("tcp4", at)
	return err == nil && l.Close() == nil
}
