package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// knownPod creates the pod in the API and attaches it.
func (c *cluster) knownPod(name string, labels map[string]string, ports ...corev1.ContainerPort) pod {
	c.t.Helper()
	_, err := c.api.CoreV1().Pods("default").Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Ports: ports}}},
	}, metav1.CreateOptions{})
	must(c.t, err)
	return c.pod(name)
}

// policy creates a network policy and waits until the kernel has it.
func (c *cluster) policy(name, spec string) {
	c.t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	must(c.t, yaml.UnmarshalStrict([]byte(spec), &p.Spec))
	_, err := c.api.NetworkingV1().NetworkPolicies("default").Create(context.Background(), p, metav1.CreateOptions{})
	must(c.t, err)
	c.policiesSettle(func(policies []string) bool { return slices.Contains(policies, name) })
}

func (c *cluster) dropPolicy(name string) {
	c.t.Helper()
	must(c.t, c.api.NetworkingV1().NetworkPolicies("default").Delete(context.Background(), name, metav1.DeleteOptions{}))
	c.policiesSettle(func(policies []string) bool { return !slices.Contains(policies, name) })
}

// policiesSettle waits for the informer and then enforces what it has.
func (c *cluster) policiesSettle(arrived func([]string) bool) {
	c.t.Helper()
	lister := c.net.enforcer.factory.Networking().V1().NetworkPolicies().Informer().GetStore()
	eventually(c.t, "the policy has arrived", func() bool {
		var names []string
		for _, o := range lister.List() {
			names = append(names, o.(*networkingv1.NetworkPolicy).Name)
		}
		return arrived(names)
	})
	must(c.t, c.net.enforcer.enforce(context.Background()))
}

// policyPatience is how long a dropped connection attempt is waited for.
const policyPatience = 150 * time.Millisecond

// reaches reports whether a connection is made; a policy drops silently.
func reaches(t testing.TB, netns, network, addr string) bool {
	t.Helper()
	_, err := askWithin(t, netns, network, addr, policyPatience)
	return err == nil
}

func TestNetworkPolicy(t *testing.T) {
	nb := addNeighbour(t)
	c := startCluster(t)
	app := func(name string) map[string]string { return map[string]string{"app": name} }
	web := c.knownPod("web", app("web"))
	db := c.knownPod("db", app("db"), corev1.ContainerPort{Name: "sql", ContainerPort: 5432})
	other := c.knownPod("other", app("other"))
	for _, port := range []int{5432, 9000} {
		db.serve("tcp", port)
	}
	serveIn(t, nb.netns, "world", "tcp", 443)
	c.service("db", c.ip(100), corev1.ProtocolTCP, 80, nodePort(30080))
	c.endpoints("db", corev1.ProtocolTCP, 5432, db)
	dbSQL, dbAdmin, svc := db.IP.String()+":5432", db.IP.String()+":9000", c.ip(100)+":80"

	type probe struct {
		what, netns, addr string
		want              bool
	}
	check := func(when string, probes ...probe) {
		t.Helper()
		for _, p := range probes {
			if got := reaches(t, p.netns, "tcp", p.addr); got != p.want {
				t.Errorf("%s: %s: reached is %v, want %v", when, p.what, got, p.want)
			}
		}
	}
	check("without a policy", probe{"web to db", web.NetNS, dbSQL, true})

	c.policy("db", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]}`)
	check("with ingress for web",
		probe{"web to db", web.NetNS, dbSQL, true},
		probe{"web to db through the service", web.NetNS, svc, true},
		probe{"web to another port", web.NetNS, dbAdmin, false},
		probe{"other to db", other.NetNS, dbSQL, false},
		probe{"other through the service", other.NetNS, svc, false},
		probe{"another machine through the node port", nb.netns, nb.hostIP + ":30080", false},
		probe{"the host, which probes", "", dbAdmin, true},
		probe{"db to itself through the service", db.NetNS, svc, true},
		probe{"db to the world", db.NetNS, nb.ip + ":443", true})

	late := c.knownPod("late", app("web"))
	check("a pod that came later", probe{"late to db", late.NetNS, dbSQL, true})

	c.policy("outside", fmt.Sprintf(`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: %s/32}}], ports: [{port: 5000, endPort: 6000}]}]}`, nb.ip))
	check("with an address block", probe{"another machine through the node port", nb.netns, nb.hostIP + ":30080", true})

	c.policy("web", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{protocol: UDP, port: 53}]}]}`)
	_, err := c.api.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "DNS is allowed", func() bool {
		answer, err := lookup(t, c, web.NetNS, "udp", "db.default.svc.cluster.local.")
		return err == nil && len(answer) == 1
	})
	check("with egress to DNS only",
		probe{"web to db", web.NetNS, dbSQL, false},
		probe{"web to the world", web.NetNS, nb.ip + ":443", false},
		probe{"other to the world", other.NetNS, nb.ip + ":443", true})

	if _, err := lookup(t, c, web.NetNS, "tcp", "db.default.svc.cluster.local."); err == nil {
		t.Error("DNS by TCP is not allowed")
	}

	c.stop()
	check("while the server is away", probe{"other to db", other.NetNS, dbSQL, false}, probe{"web to db", web.NetNS, dbSQL, false})
	c.start()
	check("after a restart", probe{"other to db", other.NetNS, dbSQL, false}, probe{"web to db", web.NetNS, dbSQL, false})

	for _, name := range []string{"db", "outside", "web"} {
		c.dropPolicy(name)
	}
	check("without policies again", probe{"other to db", other.NetNS, dbSQL, true}, probe{"web to db", web.NetNS, dbSQL, true})
	if rules := run(t, "nft", "list", "table", "ip", c.net.plan.Table); strings.Contains(rules, "chain ingress-") || strings.Contains(rules, "chain egress-") {
		t.Errorf("rules are left behind:\n%s", rules)
	}
}

func TestPodIsProtectedBeforeItStarts(t *testing.T) {
	c := startCluster(t)
	c.policy("deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	client := c.knownPod("client", nil)
	server := c.knownPod("server", nil)
	server.serve("tcp", 80)
	if reaches(t, client.NetNS, "tcp", server.IP.String()+":80") {
		t.Error("a pod that was just attached is open")
	}
}

// TestPoliciesCannotBePassedBy sends frames straight to another pod's hardware address.
func TestPoliciesCannotBePassedBy(t *testing.T) {
	c := startCluster(t)
	client, server := c.knownPod("client", nil), c.knownPod("server", nil)
	server.serve("tcp", 80)
	direct := func(from, to pod) error {
		return in(t, from.NetNS, func() error {
			h, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			defer h.Close()
			return errors.Join(
				h.RouteReplace(&netlink.Route{LinkIndex: podInterfaceIndex, Dst: &net.IPNet{IP: to.IP.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK}),
				h.NeighSet(&netlink.Neigh{LinkIndex: podInterfaceIndex, IP: to.IP.AsSlice(), HardwareAddr: macOf(to.IP), State: netlink.NUD_PERMANENT}))
		})
	}
	c.policy("deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	must(t, direct(client, server))
	must(t, direct(server, client))
	for _, filterBridged := range []string{"0", "1", "0"} {
		if err := (sysctl{bridgeFilter.name, filterBridged}).write(); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, c.net.configurePorts(filtersBridged()))
		if reaches(t, client.NetNS, "tcp", server.IP.String()+":80") {
			t.Errorf("with bridge-nf-call-iptables=%s a pod reached another past the policy", filterBridged)
		}
	}
}
