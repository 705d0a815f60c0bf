package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRulesetCanBeListed: administrators and other programs look at the whole ruleset
// with nft, which must not stumble over anything of ours.
func TestRulesetCanBeListed(t *testing.T) {
	c := startCluster(t)
	c.everyKind()
	rules := run(t, "nft", "-a", "list", "ruleset")
	for _, want := range []string{"chain ingress-", "chain sticky-10.", "chain sticky-host-tcp-", "@guarded", "dport @refused"} {
		if !strings.Contains(rules, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(rules, "invalid") {
		t.Errorf("nft does not understand all of\n%s", rules)
	}
	if out := run(t, "nft", "-j", "list", "ruleset"); !json.Valid([]byte(out)) {
		t.Errorf("not JSON: %s", out)
	}
}

// TestRulesetCanBeLoaded: what was printed is accepted, but for the rules that look up a
// slot. nft takes the number drawn for another type than the one of the map.
func TestRulesetCanBeLoaded(t *testing.T) {
	c := startCluster(t)
	c.everyKind()
	rules := run(t, "nft", "list", "ruleset")
	slots := regexp.MustCompile(`(?m)^.*numgen random mod \d+ map @(host-)?slots$`)
	if !slots.MatchString(rules) {
		t.Fatalf("no slot is looked up in\n%s", rules)
	}
	file := filepath.Join(t.TempDir(), "rules")
	must(t, os.WriteFile(file, []byte("flush ruleset\n"+slots.ReplaceAllString(rules, "")), 0o600))
	run(t, "nft", "-c", "-f", file)
}

// everyKind makes everything the table has a rule for.
func (c *cluster) everyKind() {
	c.t.Helper()
	port := corev1.ContainerPort{Name: "http", ContainerPort: 8080}
	p, q := c.knownPod("p", nil, port), c.knownPod("q", nil, port)
	p.serve("tcp", 8080)
	q.serve("tcp", 8080)
	published := c.pod("published", HostPort{HostPort: 9090, ContainerPort: 8080}, HostPort{HostPort: 9053, ContainerPort: 53, Protocol: corev1.ProtocolUDP})
	lb := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24", "127.0.0.0/8"}
	}
	for i, kind := range [][]serviceOption{
		{}, {nodePort(30080)}, {lb}, {sticky(100)}, {sticky(10800), nodePort(30081)}, {sticky(100), lb},
	} {
		name, ip, port := fmt.Sprint("kind-", i), c.ip(uint32(100+i)), int32(80+i)
		c.service(name, ip, corev1.ProtocolTCP, port, kind...)
		c.endpoints(name, corev1.ProtocolTCP, 8080, p, q)
		mustAsk(c.t, published.NetNS, "tcp", fmt.Sprintf("%s:%d", ip, port))
	}
	mustAsk(c.t, "", "tcp", c.net.NodeIP().String()+":30081")
	c.service("single", c.ip(120), corev1.ProtocolUDP, 80, sticky(1))
	c.endpoints("single", corev1.ProtocolUDP, 8080, p)
	c.service("empty", c.ip(121), corev1.ProtocolUDP, 80, nodePort(30082))
	c.policy("some", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}], ports: [{port: http}, {port: 1, endPort: 9}]}]}`)
	c.policy("out", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`)
}

func (c *cluster) listTable() string {
	c.t.Helper()
	return run(c.t, "nft", "list", "table", "ip", c.net.plan.Table)
}

func TestClientsAreForgottenInTime(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, sticky(2))
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	remembered := func() bool { return strings.Contains(c.listTable(), client.IP.String()+" timeout 2s expires") }
	asked := time.Now()
	mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80")
	if !remembered() {
		t.Fatalf("the client is not remembered:\n%s", c.listTable())
	}
	eventually(t, "the client is forgotten", func() bool { return !remembered() })
	if kept := time.Since(asked); kept < 1900*time.Millisecond {
		t.Errorf("remembered for %v, want 2 s", kept)
	}
}

func TestAffinityLeavesNothingBehind(t *testing.T) {
	c := startCluster(t)
	client, one, two := c.pod("client"), c.pod("one"), c.pod("two")
	one.serve("tcp", 8080)
	two.serve("tcp", 8080)
	addr := c.ip(100) + ":80"
	web := c.service("web", c.ip(100), corev1.ProtocolTCP, 80, nodePort(30080), sticky(100))
	c.endpoints("web", corev1.ProtocolTCP, 8080, one, two)
	first := mustAsk(t, client.NetNS, "tcp", addr).server

	update := func(o serviceOption) {
		t.Helper()
		o(web)
		_, err := c.api.CoreV1().Services("default").Update(context.Background(), web, metav1.UpdateOptions{})
		must(t, err)
		c.settle()
	}
	update(sticky(50))
	if got := mustAsk(t, client.NetNS, "tcp", addr).server; got != first {
		t.Errorf("client moved from %s to %s when the timeout changed", first, got)
	}
	if rules := c.listTable(); !strings.Contains(rules, "timeout 50s") || strings.Contains(rules, "timeout 1m40s }") {
		t.Errorf("the timeout did not change:\n%s", rules)
	}
	update(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityNone })
	if rules := c.listTable(); strings.Contains(rules, "sticky-") {
		t.Errorf("without affinity there is still\n%s", rules)
	}
	met := map[string]bool{}
	eventually(t, "both servers are drawn", func() bool {
		met[mustAsk(t, client.NetNS, "tcp", addr).server] = true
		return len(met) == 2
	})

	update(sticky(100))
	mustAsk(t, client.NetNS, "tcp", addr)
	c.endpoints("web", corev1.ProtocolTCP, 8080)
	mustRefuse(t, client.NetNS, "tcp", addr)
	if rules := c.listTable(); strings.Contains(rules, "sticky-") {
		t.Errorf("without endpoints there is still\n%s", rules)
	}
	c.endpoints("web", corev1.ProtocolTCP, 8080, one)
	mustAsk(t, client.NetNS, "tcp", addr)
	must(t, c.api.CoreV1().Services("default").Delete(context.Background(), "web", metav1.DeleteOptions{}))
	c.settle()
	if rules := c.listTable(); strings.Contains(rules, "sticky-") {
		t.Errorf("without the service there is still\n%s", rules)
	}
}

// TestOlderTableIsReplaced starts over a table with a rule that nft 1.0.6 cannot print,
// which an older version made for services with affinity.
func TestOlderTableIsReplaced(t *testing.T) {
	c := startCluster(t)
	server := c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, sticky(100))
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	c.stop()
	addUnprintable(t, c.net.plan.Table)
	if _, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err == nil {
		t.Log("this nft prints the older rule too")
	}
	c.start()
	c.settle()
	if rules := run(t, "nft", "list", "ruleset"); strings.Contains(rules, "older") {
		t.Errorf("the older rule is still there:\n%s", rules)
	}
	mustAsk(t, "", "tcp", c.ip(100)+":80")
}

// addUnprintable adds a rule that remembers in a map what the map returned.
func addUnprintable(t *testing.T, name string) {
	t.Helper()
	conn, err := nftables.New()
	must(t, err)
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	memory := &nftables.Set{
		Table: table, Name: "older-affinity", IsMap: true, Dynamic: true, HasTimeout: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
	must(t, conn.AddSet(memory, nil))
	const key, data = unix.NFT_REG32_00 + 6, unix.NFT_REG32_00
	conn.AddRule(&nftables.Rule{
		Table: table, Chain: conn.AddChain(&nftables.Chain{Table: table, Name: "older"}),
		Exprs: slices.Concat([]expr.Any{
			&expr.Payload{DestRegister: key, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Payload{DestRegister: key + 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Lookup{SourceRegister: key, DestRegister: data, IsDestRegSet: true, SetName: memory.Name, SetID: memory.ID},
			&expr.Dynset{SrcRegKey: key, SrcRegData: data, SetName: memory.Name, SetID: memory.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Minute},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: data, RegProtoMin: data + 1},
		}),
	})
	must(t, conn.Flush())
}
