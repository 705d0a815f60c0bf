package network

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestInspect(t *testing.T) {
	needNetwork(t)
	if _, err := Inspect(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty directory: %v", err)
	}
	c := startCluster(t)
	c.pod("b", HostPort{HostPort: 8080, ContainerPort: 80, Protocol: corev1.ProtocolTCP})
	c.pod("a")
	c.stop() // it need not run
	r, err := Inspect(c.dataDir)
	must(t, err)
	if !r.Bridge || !r.Table || len(r.Problems) != 0 || r.DNS != c.net.DNS() {
		t.Errorf("got %+v", r)
	}
	if len(r.Pods) != 2 || r.Pods[0].Name != "a" || len(r.Pods[1].HostPorts) != 1 {
		t.Errorf("pods: %+v", r.Pods)
	}

	run(t, "nft", "add table ip other; add chain ip other FORWARD { type filter hook forward priority 0; policy drop; }")
	t.Cleanup(func() { run(t, "nft", "delete table ip other") })
	r, err = Inspect(c.dataDir)
	must(t, err)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, "ip other FORWARD") {
		t.Fatalf("a chain that drops: %+v", r.Problems)
	}

	// The remedy works.
	a, b := podOf(c, r.Pods[0]), podOf(c, r.Pods[1])
	b.serve("tcp", 80)
	if _, err := ask(t, a.NetNS, "tcp", b.IP.String()+":80"); err == nil {
		t.Error("the foreign chain should have dropped the packets")
	}
	for cmd := range strings.SplitSeq(strings.TrimPrefix(r.Problems[0].Remedy, "accept them in it: "), "; ") {
		run(t, "sh", "-c", cmd)
	}
	mustAsk(t, a.NetNS, "tcp", b.IP.String()+":80")
}

func podOf(c *cluster, r PodReport) pod {
	le, _ := c.net.leases.get(r.UID)
	return pod{c.net.attachment(le), c, r.UID, r.Name}
}
