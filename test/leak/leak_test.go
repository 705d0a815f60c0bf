package leak

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/gantryhq/gantry/internal/testenv"
)

const stranger = "0a1b2c3d-0000-4000-8000-00000000dead"

// TestEveryKindOfLeakIsFound leaves one of each behind.
func TestEveryKindOfLeakIsFound(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "nft", "nftables")
	dir := t.TempDir()
	name := instanceName(dir)
	write := func(path, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	write("network.json", `{"podCIDR":"198.18.0.0/16","serviceCIDR":"198.19.0.0/16"}`)
	write("run/network/"+stranger, `{"uid":"`+stranger+`","ip":"198.18.0.9","veth":"gvleak0"}`)
	write("volumes/pvc-"+stranger+"/file", "")
	write("run/containers/"+stranger+"-00000000-0/pid", "1")

	leaveProcesses(t, dir)
	leaveMount(t, filepath.Join(dir, "run/sandbox", stranger))
	leaveGroup(t, name)
	leaveLinks(t, name)
	worker := "gantry-build-" + strings.TrimPrefix(name, "gantry-")
	must(t, exec.Command("nft", "add", "table", "ip", worker).Run())
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "ip", worker).Run() })
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "gb" + strings.TrimPrefix(name, "gantry-") + "0001"}, PeerName: "gbleak1"}))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("gb" + strings.TrimPrefix(name, "gantry-") + "0001"); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	rules := "table ip " + name + " { set pods { type ipv4_addr; elements = { 198.18.0.9 }; }; " +
		"set talks { type ipv4_addr . ipv4_addr; flags timeout; elements = { 198.18.0.7 . 198.18.0.6 timeout 10m }; }; }"
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	must(t, load.Run())
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "ip", name).Run() })

	empty := &world{running: map[string]bool{}, known: map[string]bool{}, addresses: map[netip.Addr]bool{}}
	got := describe(t, func() ([]Thing, error) { return find(dir, empty) })
	for _, want := range []string{
		"address lease 198.18.0.9", "volume volumes/pvc-", "container run/containers/", "descriptor of a deleted file",
		"mount ", "cgroup ", "bridge port gvleak0", "neighbour 198.18.0.9", "nftables element with 198.18.0.9", "zombie ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q among the leaks:\n%s", want, got)
		}
	}
	if strings.Contains(got, "198.18.0.7") {
		t.Errorf("what the kernel removes by itself is among the leaks:\n%s", got)
	}
	everything := &world{running: map[string]bool{stranger: true}, known: map[string]bool{stranger: true},
		addresses: map[netip.Addr]bool{netip.MustParseAddr("198.18.0.9"): true}}
	got = describe(t, func() ([]Thing, error) { return find(dir, everything) })
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, "deleted file") || !strings.Contains(got, "zombie") {
		t.Errorf("with its owner alive only the deleted file and the zombie are leaks:\n%s", got)
	}
	got = describe(t, func() ([]Thing, error) { return Gone(dir) })
	for _, want := range []string{"process ", "bridge " + name, "nftables table " + name, "nftables table " + worker, "interface of a build step gb"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q after gantry down --all:\n%s", want, got)
		}
	}
}

// TestAnotherDirectoryIsNotOurs: names that begin alike belong to others.
func TestAnotherDirectoryIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	neighbour := exec.Command("sleep", "1000", dir+"2/run")
	must(t, neighbour.Start())
	t.Cleanup(func() { _ = neighbour.Process.Kill(); _ = neighbour.Wait() })
	if left, err := Gone(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// leaveProcesses leaves one that holds a deleted file and a child that nobody collects.
func leaveProcesses(t *testing.T, dir string) {
	t.Helper()
	holder := exec.Command("sh", "-c", `exec 7>"$1/gone"; rm "$1/gone"; sh -c 'echo $$; kill -9 $$' & read x; sleep 1000`, "holder", dir)
	input, err := holder.StdinPipe()
	must(t, err)
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() { _ = input.Close(); _ = holder.Process.Kill(); _ = holder.Wait() })
	_, err = out.Read(make([]byte, 8)) // the child is there, and about to die
	must(t, err)
}

func leaveMount(t *testing.T, at string) {
	t.Helper()
	must(t, os.MkdirAll(at, 0o755))
	must(t, syscall.Mount("leak", at, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { _ = syscall.Unmount(at, 0) })
}

func leaveGroup(t *testing.T, name string) {
	t.Helper()
	all := hierarchies()
	if len(all) == 0 {
		t.Skip("no control groups are mounted")
	}
	group := filepath.Join(all[0], name)
	must(t, os.MkdirAll(filepath.Join(group, stranger), 0o755))
	t.Cleanup(func() { _ = os.Remove(filepath.Join(group, stranger)); _ = os.Remove(group) })
}

func leaveLinks(t *testing.T, name string) {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "gvleak0", MasterIndex: bridge.Index}, PeerName: "gvleak1"}
	must(t, netlink.LinkAdd(port))
	t.Cleanup(func() { _ = netlink.LinkDel(port) })
	must(t, netlink.LinkSetUp(bridge))
	must(t, exec.Command("ip", "neigh", "add", "198.18.0.9", "lladdr", "0a:58:c6:12:00:09", "nud", "permanent", "dev", name).Run())
}

func describe(t *testing.T, look func() ([]Thing, error)) string {
	t.Helper()
	left, err := look()
	must(t, err)
	var b strings.Builder
	for _, thing := range left {
		b.WriteString(thing.String() + "\n")
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
