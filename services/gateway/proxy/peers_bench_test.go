package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// This benchmark starts the data plane and the proxies of others that are
// installed, each as a process of its own on one core, has them forward the same
// requests to the same server in turn, and compares the processor time that the
// kernel accounts to each for a request. Access logs are on everywhere.

const (
	benchHost        = "shop.example.com"
	benchConnections = 64
	benchRounds      = 5
	benchTime        = 2 * time.Second
	// The child process reads its part from here.
	benchRole = "GANTRY_PROXY_BENCH"
)

func TestMain(m *testing.M) {
	switch role := strings.Split(os.Getenv(benchRole), ","); role[0] {
	case "":
		os.Exit(m.Run())
	case "gateway":
		benchGateway(role[1], role[2], role[3], role[4])
	case "server":
		benchServer(role[1])
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
			must(fmt.Errorf("port %d: %w", port, binding.Err))
		}
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

// benchServer answers /SIZE with so many bytes.
func benchServer(address string) {
	l, err := net.Listen("tcp", address)
	must(err)
	answers := map[string][]byte{}
	for _, size := range []int{16, 1 << 10, 100 << 10} {
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sun, 22 Nov 2026 08:00:00 GMT\r\nContent-Type: application/octet-stream\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n", size)
		answers["/"+strconv.Itoa(size)] = append([]byte(head), make([]byte, size)...)
	}
	for {
		conn, err := l.Accept()
		must(err)
		go func() {
			defer conn.Close()
			request := make([]byte, 8<<10)
			for {
				n, err := conn.Read(request) // each request comes in one piece
				if err != nil {
					return
				}
				_, target, _ := strings.Cut(string(request[:n]), " ")
				target, _, _ = strings.Cut(target, " ")
				if _, err := conn.Write(answers[target]); err != nil {
					return
				}
			}
		}()
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// peer is one proxy under measurement.
type peer struct {
	name          string
	plain, secure string // addresses
	pids          []int
	cpu           map[string][]float64 // case to microseconds per request, of each round
	failed        int
}

func BenchmarkForwardBesidePeers(b *testing.B) {
	dir := b.TempDir()
	writePair(b, filepath.Join(dir, "pair.pem"))
	server := freeAddress(b)
	startChild(b, "server,"+server, nil)
	awaitPort(b, server)
	peers := startPeers(b, dir, server)
	for b.Loop() {
		for _, what := range []string{"http /16", "http /1024", "http /102400", "https /1024"} {
			for round := range benchRounds + 1 {
				for _, p := range peers {
					if p.secure == "" && strings.HasPrefix(what, "https") {
						continue
					}
					cost := p.measure(b, what)
					if round > 0 { // the first one warms up
						p.cpu[what] = append(p.cpu[what], cost)
					}
				}
			}
		}
	}
	printPeers(b, peers)
}

// measure has the proxy forward for a while and returns its microseconds of
// processor time per request.
func (p *peer) measure(b *testing.B, what string) float64 {
	scheme, path, _ := strings.Cut(what, " ")
	address := p.plain
	if scheme == "https" {
		address = p.secure
	}
	type outcome struct{ requests, failed int }
	outcomes := make(chan outcome)
	before := cpuTime(b, p.pids)
	deadline := time.Now().Add(benchTime)
	for range benchConnections {
		go func() {
			var o outcome
			o.requests, o.failed = hammer(address, scheme == "https", path, deadline)
			outcomes <- o
		}()
	}
	requests := 0
	for range benchConnections {
		o := <-outcomes
		requests += o.requests
		p.failed += o.failed
	}
	if requests == 0 {
		b.Fatalf("%s forwards nothing", p.name)
	}
	return float64((cpuTime(b, p.pids) - before).Microseconds()) / float64(requests)
}

// hammer sends one request after the other over one connection.
func hammer(address string, secure bool, path string, deadline time.Time) (requests, failed int) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, 1
	}
	defer conn.Close()
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: benchHost, NextProtos: []string{"http/1.1"}})
	}
	size, _ := strconv.Atoi(path[1:])
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n\r\n", path, benchHost)
	response := make([]byte, 128<<10)
	for time.Now().Before(deadline) {
		if _, err := conn.Write(request); err != nil {
			return requests, failed + 1
		}
		have, want := 0, -1
		for want < 0 || have < want {
			n, err := conn.Read(response[have:])
			if err != nil {
				return requests, failed + 1
			}
			have += n
			if end := strings.Index(string(response[:min(have, 1024)]), "\r\n\r\n"); want < 0 && end >= 0 {
				want = end + 4 + size
			}
		}
		if !strings.HasPrefix(string(response[:12]), "HTTP/1.1 200") || have != want {
			failed++
		}
		requests++
	}
	return requests, failed
}

// cpuTime is the processor time of all threads of the processes.
func cpuTime(b *testing.B, pids []int) (total time.Duration) {
	for _, pid := range pids {
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

func printPeers(b *testing.B, peers []*peer) {
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nµs of processor time per request\tproxy\tmedian\tall rounds\trequests per CPU second, Gantry against it\tfailed")
	var cases []string
	for what := range peers[0].cpu {
		cases = append(cases, what)
	}
	slices.Sort(cases)
	for _, what := range cases {
		ours := median(peers[0].cpu[what])
		for _, p := range peers {
			if len(p.cpu[what]) == 0 {
				continue
			}
			m := median(p.cpu[what])
			fmt.Fprintf(table, "%s\t%s\t%.1f\t%.1f\t%.2f\t%d\n", what, p.name, m, p.cpu[what], m/ours, p.failed)
			b.ReportMetric(m, p.name+"-"+strings.NewReplacer(" /", "-", "/", "").Replace(what)+"-µs/request")
		}
	}
	table.Flush()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// startPeers starts the gateway and the proxies that are installed.
func startPeers(b *testing.B, dir, server string) []*peer {
	ours := newPeer(b, "gantry")
	ours.pids = []int{startChild(b, fmt.Sprintf("gateway,%s,%s,%s,%s", ours.plain, ours.secure, server, dir), []string{"GOMAXPROCS=1"})}
	awaitPort(b, ours.plain)
	peers := []*peer{ours}
	for name, start := range map[string]func(*testing.B, *peer, string, string) *exec.Cmd{"nginx": nginx, "haproxy": haproxy} {
		if _, err := exec.LookPath(name); err != nil {
			b.Logf("%s is not installed: no comparison with it (apt-get install %s)", name, name)
			continue
		}
		p := newPeer(b, name)
		command := start(b, p, dir, server)
		startCommand(b, command)
		awaitPort(b, p.plain)
		p.pids = family(command.Process.Pid)
		peers = append(peers, p)
	}
	return peers
}

func newPeer(b *testing.B, name string) *peer {
	return &peer{name: name, plain: freeAddress(b), secure: freeAddress(b), cpu: map[string][]float64{}}
}

func nginx(b *testing.B, p *peer, dir, server string) *exec.Cmd {
	config := fmt.Sprintf(`
worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx-error.log;
events { worker_connections 1024; }
http {
  access_log %[1]s/nginx.log combined buffer=32k flush=100ms; keepalive_requests 100000000;
  upstream server { server %[2]s; keepalive 64; keepalive_requests 100000000; }
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen %[3]s; listen %[4]s ssl; server_name %[5]s;
    ssl_certificate %[1]s/pair.pem; ssl_certificate_key %[1]s/pair.pem; ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    location / {
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}`, dir, server, p.plain, p.secure, benchHost)
	file := filepath.Join(dir, "nginx.conf")
	write(b, file, config)
	return onOneCore("nginx", "-p", dir, "-c", file)
}

func haproxy(b *testing.B, p *peer, dir, server string) *exec.Cmd {
	config := fmt.Sprintf(`
global
  nbthread 1
  log stdout format raw local0
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  log global
  option httplog
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend in
  bind %[3]s
  bind %[4]s ssl crt %[1]s/pair.pem
  http-request set-header X-Forwarded-Proto %%[ssl_fc,iif(https,http)]
  use_backend server if { hdr(host) -i %[5]s }
backend server
  http-reuse always
  server s %[2]s`, dir, server, p.plain, p.secure, benchHost)
	file := filepath.Join(dir, "haproxy.cfg")
	write(b, file, config+"\n")
	command := onOneCore("haproxy", "-db", "-f", file)
	log, err := os.Create(filepath.Join(dir, "haproxy.log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	command.Stdout = log
	return command
}

// onOneCore keeps a program on the first core.
func onOneCore(name string, arguments ...string) *exec.Cmd {
	return exec.Command("taskset", append([]string{"-c", "0", name}, arguments...)...)
}

// startChild starts this program in another part.
func startChild(b *testing.B, role string, env []string) int {
	command := exec.Command(os.Args[0])
	if strings.HasPrefix(role, "gateway") {
		command = onOneCore(os.Args[0])
	}
	command.Env = append(append(os.Environ(), benchRole+"="+role), env...)
	command.Stderr = os.Stderr
	startCommand(b, command)
	return command.Process.Pid
}

func startCommand(b *testing.B, command *exec.Cmd) {
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		command.Wait()
	})
}

// family is a process and its children.
func family(pid int) []int {
	pids := []int{pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func awaitPort(b *testing.B, address string) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func write(b *testing.B, path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// writePair writes a certificate and its key.
func writePair(b *testing.B, path string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{benchHost}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	pem.Encode(io.Writer(file), &pem.Block{Type: "CERTIFICATE", Bytes: der})
	pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
