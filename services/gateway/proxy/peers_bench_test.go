package proxy

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// This benchmark starts the data plane and the proxies of others that are
// installed, each as a process of its own on the first core, has them forward the
// same requests in turn, and compares the processor time that the kernel accounts
// to each for a request. Clients and backend are one process on the second core.
// Access logs are on everywhere. docs/bench-gateway.md says more.

const (
	benchHost        = "shop.example.com"
	benchConnections = 64
	benchIdle        = 10_000
	benchIdleSecure  = 1_000
	// The child process reads its part from here.
	benchRole = "GANTRY_PROXY_BENCH"
)

func TestMain(m *testing.M) {
	switch role := strings.Split(os.Getenv(benchRole), ","); role[0] {
	case "":
		os.Exit(m.Run())
	case "gateway":
		benchGateway(role[1], role[2], role[3], role[4])
	case "load":
		benchLoad(role[1])
	}
}

// benchGateway is a process that forwards everything to one server.
func benchGateway(plain, secure, server, dir string) {
	log, err := os.OpenFile(filepath.Join(dir, "gantry.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(err)
	s, err := New(Config{
		Listen: map[uint16]string{80: plain, 443: secure}, Registry: prometheus.NewRegistry(), AccessLog: log,
		Log: slog.New(slog.DiscardHandler),
	})
	must(err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "pair.pem"), filepath.Join(dir, "pair.pem"))
	must(err)
	service := route.ServicePort{Namespace: "bench", Name: "server", Port: 80}
	b := route.NewBuilder()
	for _, port := range []uint16{80, 443} {
		b.AddListener(port, port == 443, "")
		b.AddRule(port, port == 443, "", route.HostPattern{Name: benchHost}, route.Match{Kind: route.Prefix, Path: "/"},
			&route.Rule{Route: "HTTPRoute/bench/server", Backends: []route.Backend{{Service: service, Weight: 1}}})
	}
	b.AddCertificate(443, route.HostPattern{}, &route.Certificate{Source: "bench", Pair: &pair})
	s.SetUpstreams([]route.Upstream{{Service: service, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(server)}}}, nil)
	for port, binding := range s.SetTable(b.Build()) {
		if binding.Err != nil {
			must(fmt.Errorf("port %s: %w", port, binding.Err))
		}
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// workload is one line of the comparison.
type workload struct {
	name string
	loadOrder
	slow bool // the slow proxies take part
}

func workloads() []workload {
	closed := func(name string, secure bool, size int) workload {
		return workload{name: name, loadOrder: loadOrder{Secure: secure, Size: size, Connections: benchConnections, Duration: benchTime()}}
	}
	all := []workload{
		closed("http 16 B", false, 16), closed("http 1 KB", false, 1<<10), closed("http 100 KB", false, 100<<10),
		closed("https 1 KB", true, 1<<10), closed("http 1 KB at 20,000/s", false, 1<<10),
	}
	all[1].slow = true
	all[4].Rate = 20_000
	only := os.Getenv("BENCH_WORKLOADS") // the numbers of some, such as 1,4; idle is that of idle connections
	if only == "" {
		return all
	}
	var some []workload
	for number := range strings.SplitSeq(only, ",") {
		if number == "idle" {
			continue
		}
		i, err := strconv.Atoi(number)
		must(err)
		some = append(some, all[i])
	}
	return some
}

func benchTime() time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("BENCH_TIME"), "1s"))
	must(err)
	return d
}

func benchRounds() int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("BENCH_ROUNDS"), "7"))
	must(err)
	return n
}

// result is what one proxy made of one workload, a value of each round.
type result struct {
	cpu            []float64 // microseconds per request
	rate           []float64 // requests per second
	p50, p99, p999 []float64 // microseconds
	failed         int
}

// peer is one proxy under measurement.
type peer struct {
	name          string
	plain, secure string // addresses
	pid           int    // its children belong to it
	slow          bool
	results       map[string]*result
}

func BenchmarkForwardBesidePeers(b *testing.B) {
	dir := b.TempDir()
	writePair(b, filepath.Join(dir, "pair.pem"))
	enterOwnNetwork()
	server := freeAddress(b)
	load := startLoad(b, server)
	awaitPort(b, server)
	peers := startPeers(b, dir, server)
	works := workloads()
	for b.Loop() {
		for _, w := range works {
			for round := range benchRounds() + 1 {
				for i := range peers {
					p := peers[(i+round)%len(peers)]
					if p.slow && !w.slow || w.Secure && p.secure == "" || cmp.Or(os.Getenv("BENCH_ONLY"), p.name) != p.name {
						continue
					}
					p.measure(b, load, w, round > 0) // the first one warms up
				}
			}
		}
	}
	printPeers(b, peers, works)
	measureIdle(b, load, peers)
}

// enterOwnNetwork puts this goroutine, and the processes that it starts, into a network of
// its own, in which no packet filter of the machine takes a part of everybody's time.
func enterOwnNetwork() {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		var loopback netlink.Link
		if loopback, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(loopback)
		}
		must(err)
		return
	}
	fmt.Printf("measured in the machine's network, whose packet filter takes the same time of all: %v\n", err)
}

// measure has the proxy forward for a while.
func (p *peer) measure(b *testing.B, load *loader, w workload, counts bool) {
	order := w.loadOrder
	order.Address = p.plain
	if w.Secure {
		order.Address = p.secure
	}
	before, start := cpuTime(b, p.pid), time.Now()
	report, err := load.follow(order)
	if err != nil || report.Requests == 0 {
		b.Fatalf("%s forwards nothing: %v", p.name, err)
	}
	used, took := cpuTime(b, p.pid)-before, time.Since(start)
	r := p.results[w.name]
	if r == nil {
		r = &result{}
		p.results[w.name] = r
	}
	r.failed += report.Failed
	if !counts {
		return
	}
	r.cpu = append(r.cpu, float64(used.Nanoseconds())/1e3/float64(report.Requests))
	r.rate = append(r.rate, float64(report.Requests)/took.Seconds())
	for values, d := range map[*[]float64]time.Duration{&r.p50: report.P50, &r.p99: report.P99, &r.p999: report.P999} {
		*values = append(*values, float64(d.Microseconds()))
	}
}

// measureIdle compares what many idle connections cost in memory.
func measureIdle(b *testing.B, load *loader, peers []*peer) {
	if only := os.Getenv("BENCH_WORKLOADS"); only != "" && !strings.Contains(only, "idle") {
		return
	}
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nidle connections\tproxy\tMB before\tMB with them\tKB for each")
	for _, p := range peers {
		for _, secure := range []bool{false, true} {
			name, order := "http", loadOrder{Address: p.plain, Size: 16, Connections: benchIdle, Hold: true}
			if secure {
				name, order.Address, order.Secure, order.Connections = "https", p.secure, true, benchIdleSecure
			}
			if order.Address == "" {
				continue
			}
			before := memory(b, p.pid)
			r, err := load.follow(order)
			if err != nil {
				b.Fatalf("%s: %v", p.name, err)
			}
			held := memory(b, p.pid)
			fmt.Fprintf(table, "%d %s\t%s\t%.1f\t%.1f\t%.1f\n", r.Requests, name, p.name, mb(before), mb(held), float64(held-before)/float64(r.Requests))
			b.ReportMetric(mb(held), p.name+"-"+name+"-idle-MB")
			if _, err := load.follow(loadOrder{Address: p.plain, Size: 16, Connections: 1, Duration: time.Millisecond}); err != nil { // lets go of them
				b.Fatal(err)
			}
		}
	}
	table.Flush()
}

func mb(kb int) float64 { return float64(kb) / 1024 }

// memory is the proportional set size of a process and its children in KB.
func memory(b *testing.B, pid int) (total int) {
	for _, pid := range family(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "\nPss:")
		kb, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			b.Fatal(err)
		}
		total += kb
	}
	return total
}

// cpuTime is the processor time of all threads of a process and its children.
func cpuTime(b *testing.B, pid int) (total time.Duration) {
	for _, pid := range family(pid) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // the thread has ended
			}
			nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(nanoseconds)
		}
	}
	return total
}

func printPeers(b *testing.B, peers []*peer, works []workload) {
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nworkload\tproxy\tCPU µs/request\trounds\tits CPU / Gantry's\trequests/s\tp50 µs\tp99 µs\tp99.9 µs\tfailed")
	for _, w := range works {
		ours := peers[0].results[w.name]
		for _, p := range peers {
			r := p.results[w.name]
			if r == nil || len(r.cpu) == 0 {
				continue
			}
			cpu := median(r.cpu)
			fmt.Fprintf(table, "%s\t%s\t%.2f\t%.1f–%.1f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t%d\n", w.name, p.name,
				cpu, slices.Min(r.cpu), slices.Max(r.cpu), ratio(r, ours), median(r.rate), median(r.p50), median(r.p99), median(r.p999), r.failed)
			b.ReportMetric(cpu, p.name+"-"+strings.NewReplacer(" ", "-", ",", "").Replace(w.name)+"-µs/request")
		}
	}
	table.Flush()
}

// ratio compares two proxies round by round: what else the machine does changes
// from one round to the next.
func ratio(r, ours *result) float64 {
	if ours == nil || len(ours.cpu) != len(r.cpu) {
		return 0
	}
	var ratios []float64
	for i := range r.cpu {
		ratios = append(ratios, r.cpu[i]/ours.cpu[i])
	}
	return median(ratios)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
