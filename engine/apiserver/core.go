package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	noderest "k8s.io/kubernetes/pkg/registry/core/node/rest"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	rcstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	corerest "k8s.io/kubernetes/pkg/registry/core/rest"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	sastore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// eventTTL is how long events are kept.
const eventTTL = time.Hour

// core assembles core/v1. Upstream's own assembly cannot be used: it opens etcd for the service
// address ranges. Ours are kept in memory and filled from the Services at start.
type core struct {
	group    genericapiserver.APIGroupInfo
	pods     podstore.PodStorage
	nodes    *nodestore.NodeStorage
	secrets  rest.Getter
	accounts *sastore.REST
	services *servicestore.REST

	addresses *ipallocator.Range
	nodePorts *portallocator.PortAllocator
}

// coreConfig is what core/v1 needs beside storage.
type coreConfig struct {
	issuer     serviceaccount.TokenGenerator
	audiences  []string
	authorizer authorizer.Authorizer
	disruption policyclient.PodDisruptionBudgetsGetter
	node       kubeletclient.ConnectionInfoGetter
	transport  *http.Transport // to pods and services, for the proxy subresources
}

func newCore(cfg *Config, opts generic.RESTOptionsGetter, cc coreConfig) (*core, error) {
	c := &core{}
	var err error
	if c.group, err = (&corerest.GenericConfig{EventTTL: eventTTL}).NewRESTStorage(servedResources(), opts); err != nil {
		return nil, fmt.Errorf("set up core/v1: %w", err)
	}
	v1 := c.group.VersionedResourcesStorageMap["v1"]
	c.secrets = v1["secrets"].(rest.Getter)
	for _, step := range []func(*Config, generic.RESTOptionsGetter, coreConfig, map[string]rest.Storage) error{
		c.addWorkloads, c.addServices, c.addAccounts, addVolumes,
	} {
		if err := step(cfg, opts, cc, v1); err != nil {
			return nil, fmt.Errorf("set up core/v1: %w", err)
		}
	}
	return c, nil
}

func (c *core) addWorkloads(_ *Config, opts generic.RESTOptionsGetter, cc coreConfig, v1 map[string]rest.Storage) error {
	var err error
	if c.nodes, err = nodestore.NewStorage(opts, kubeletclient.KubeletClientConfig{}, cc.transport); err != nil {
		return err
	}
	v1["nodes"], v1["nodes/status"] = c.nodes.Node, c.nodes.Status
	v1["nodes/proxy"] = &noderest.ProxyREST{Store: c.nodes.Node.Store, Connection: nodeAddress{cc.node, c.nodes.Node}, ProxyTransport: cc.transport}

	if c.pods, err = podstore.NewStorage(opts, cc.node, cc.transport, cc.disruption, cc.authorizer); err != nil {
		return err
	}
	v1["pods"], v1["pods/status"], v1["pods/binding"] = c.pods.Pod, c.pods.Status, c.pods.Binding
	v1["pods/log"], v1["pods/exec"], v1["pods/attach"] = c.pods.Log, c.pods.Exec, c.pods.Attach
	v1["pods/portforward"], v1["pods/proxy"] = c.pods.PortForward, c.pods.Proxy
	v1["pods/eviction"], v1["pods/ephemeralcontainers"], v1["pods/resize"] = c.pods.Eviction, c.pods.EphemeralContainers, c.pods.Resize
	v1["bindings"] = c.pods.LegacyBinding

	if v1["podtemplates"], err = podtemplatestore.NewREST(opts); err != nil {
		return err
	}
	if v1["limitranges"], err = limitrangestore.NewREST(opts); err != nil {
		return err
	}
	controllers, err := rcstore.NewStorage(opts)
	if err != nil {
		return err
	}
	v1["replicationcontrollers"] = controllers.Controller
	v1["replicationcontrollers/status"], v1["replicationcontrollers/scale"] = controllers.Status, controllers.Scale
	return nil
}

func (c *core) addServices(cfg *Config, opts generic.RESTOptionsGetter, cc coreConfig, v1 map[string]rest.Storage) error {
	prefix := cfg.ServiceCIDR
	addresses, err := ipallocator.NewInMemory(&net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
	if err != nil {
		return fmt.Errorf("service range %s: %w", prefix, err)
	}
	ports, err := cfg.nodePorts()
	if err != nil {
		return err
	}
	nodePorts, err := portallocator.NewInMemory(ports)
	if err != nil {
		return fmt.Errorf("node ports %s: %w", cfg.NodePorts, err)
	}
	c.addresses, c.nodePorts = addresses, nodePorts
	endpoints, err := endpointsstore.NewREST(opts)
	if err != nil {
		return err
	}
	services, status, proxy, err := servicestore.NewREST(opts, addresses.IPFamily(),
		map[api.IPFamily]ipallocator.Interface{addresses.IPFamily(): addresses}, nodePorts, endpoints, c.pods.Pod, cc.transport)
	if err != nil {
		return err
	}
	c.services = services
	v1["endpoints"] = endpoints
	v1["services"], v1["services/status"], v1["services/proxy"] = services, status, proxy
	return nil
}

func (c *core) addAccounts(_ *Config, opts generic.RESTOptionsGetter, cc coreConfig, v1 map[string]rest.Storage) error {
	accounts, err := sastore.NewREST(opts, cc.issuer, cc.audiences, 0, c.pods.Pod.Store, c.secrets, c.nodes.Node.Store, false, 0)
	if err != nil {
		return err
	}
	c.accounts = accounts
	v1["serviceaccounts"], v1["serviceaccounts/token"] = accounts, accounts.Token
	return nil
}

func addVolumes(_ *Config, opts generic.RESTOptionsGetter, _ coreConfig, v1 map[string]rest.Storage) error {
	volumes, volumeStatus, err := pvstore.NewREST(opts)
	if err != nil {
		return err
	}
	claims, claimStatus, err := pvcstore.NewREST(opts)
	if err != nil {
		return err
	}
	v1["persistentvolumes"], v1["persistentvolumes/status"] = volumes, volumeStatus
	v1["persistentvolumeclaims"], v1["persistentvolumeclaims/status"] = claims, claimStatus
	return nil
}

// claimAllocated marks the addresses and ports of the existing Services as taken. It runs before
// anything is served.
func (c *core) claimAllocated(ctx context.Context) error {
	obj, err := c.services.Store.ListPredicate(ctx, c.services.Store.PredicateFunc(everyLabel, everyField), nil)
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for _, svc := range obj.(*api.ServiceList).Items {
		for _, address := range svc.Spec.ClusterIPs {
			// A Service keeps an address outside the range, as after a change of the range.
			if ip := net.ParseIP(address); ip != nil {
				_ = c.addresses.Allocate(ip)
			}
		}
		for _, port := range svc.Spec.Ports {
			if port.NodePort != 0 {
				_ = c.nodePorts.Allocate(int(port.NodePort))
			}
		}
		if svc.Spec.HealthCheckNodePort != 0 {
			_ = c.nodePorts.Allocate(int(svc.Spec.HealthCheckNodePort))
		}
	}
	return nil
}

// nodeConnection is the kubeletclient.ConnectionInfoGetter of a cluster with one node, whose
// agent is reached without the network.
type nodeConnection struct{ transport http.RoundTripper }

// GetConnectionInfo implements kubeletclient.ConnectionInfoGetter.
func (n nodeConnection) GetConnectionInfo(_ context.Context, node types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	return &kubeletclient.ConnectionInfo{
		Scheme: "http", Hostname: string(node), Port: "10250",
		Transport: n.transport, InsecureSkipTLSVerifyTransport: n.transport,
	}, nil
}

// nodeAddress adds the node's own address. The proxy wants it: it refuses names that lead to
// loopback, as this machine's often does, and calls the node's other ports there. Only a node
// has one, so the proxy leads nowhere else.
type nodeAddress struct {
	kubeletclient.ConnectionInfoGetter
	nodes rest.Getter
}

// GetConnectionInfo implements kubeletclient.ConnectionInfoGetter.
func (n nodeAddress) GetConnectionInfo(ctx context.Context, name types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	node, err := get(ctx, n.nodes, "", string(name), &corev1.Node{})
	if err != nil {
		return nil, err
	}
	info, err := n.ConnectionInfoGetter.GetConnectionInfo(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			info.Hostname = a.Address
			return info, nil
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has not reported its address yet", name))
}
