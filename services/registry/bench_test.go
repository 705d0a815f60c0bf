package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// serveEnv makes the test program serve a registry from a directory, so that its
// processor time and memory are those of the registry alone.
const serveEnv = "GANTRY_BENCH_SERVE"

func TestMain(m *testing.M) {
	dir := os.Getenv(serveEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	r, err := New(Config{DataDir: dir, Storage: testBucket(dir)})
	if err != nil {
		panic(err)
	}
	if os.Getenv(collectEnv) != "" {
		go collectAlways(r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(http.Serve(l, r))
}

// peer is a registry in a process of its own.
type peer struct {
	name, base string
	pid        int
}

// BenchmarkBesideDistribution pushes and pulls beside the CNCF distribution registry
// (script/peers registry): in turns, so that what else the machine does meets both. It
// prints the medians and fails when this registry is slower. BENCH_ROUNDS and BENCH_MB
// choose how much.
func BenchmarkBesideDistribution(b *testing.B) {
	rounds, megabytes := number(b, "BENCH_ROUNDS", 5), number(b, "BENCH_MB", 256)
	peers := []peer{startOurs(b)}
	if p, found := startDistribution(b); found {
		peers = append(peers, p)
	} else {
		b.Log("distribution's registry is not installed (script/peers registry): no comparison")
	}
	loads := []load{
		{"push of large layers", "MB", func(a client, round int) int { return a.pushLarge(round, megabytes) }},
		{"pull of large layers", "MB", func(a client, round int) int { return a.pullLarge(round, megabytes) }},
		{"push of small images", "images", func(a client, round int) int { return a.pushSmall(round, 100) }},
		{"pull of small images", "images", func(a client, round int) int { return a.pullSmall(round, 100) }},
	}
	for range b.N {
		for _, l := range loads {
			compare(b, l, peers, rounds)
		}
		for _, p := range peers {
			manyPulls(b, p)
		}
	}
}

// slower is where a ratio is no accident of a disk or of cores that others use too.
const slower = 0.9

// load is something that clients do; it returns how much was done.
type load struct {
	name, unit string
	run        func(a client, round int) int
}

func compare(b *testing.B, l load, peers []peer, rounds int) {
	speed, cost := make([][]float64, len(peers)), make([][]float64, len(peers))
	for round := range rounds {
		for i, p := range peers {
			before, began := cpu(b, p.pid), time.Now()
			done := float64(l.run(client{b, p.base}, round))
			took := time.Since(began).Seconds()
			speed[i] = append(speed[i], done/took)
			cost[i] = append(cost[i], float64((cpu(b, p.pid)-before).Microseconds())/done)
		}
	}
	for i, p := range peers {
		b.Logf("%-22s %-13s %8.0f %s/s %8.0f µs of processor time per %s", l.name, p.name, median(speed[i]), l.unit, median(cost[i]), strings.TrimSuffix(l.unit, "s"))
	}
	if len(peers) < 2 {
		return
	}
	var ratios []float64 // of the same round
	for round := range rounds {
		ratios = append(ratios, speed[0][round]/speed[1][round])
	}
	b.Logf("%-22s %.2f times distribution's throughput", l.name, median(ratios))
	b.ReportMetric(median(ratios), strings.ReplaceAll(l.name, " ", "-")+"/distribution")
	if median(ratios) < slower {
		b.Errorf("%s: slower than distribution", l.name)
	}
}

// manyPulls pulls one image a thousand times at once and looks at the memory that takes.
func manyPulls(b *testing.B, p peer) {
	const pulls, size = 1000, 4 << 20
	a := client{b, p.base}
	image := a.push("many/app", "1", noise(1, size))
	rest := memory(b, p.pid, "VmRSS")
	ok(b, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0)) // forget the peak
	before, began := cpu(b, p.pid), time.Now()
	transport := &http.Transport{MaxIdleConnsPerHost: pulls}
	defer transport.CloseIdleConnections()
	connected := &http.Client{Transport: transport}
	var all, waiting sync.WaitGroup
	start := make(chan struct{})
	waiting.Add(pulls)
	for range pulls {
		all.Go(func() {
			waiting.Done()
			<-start
			for _, path := range []string{"manifests/1", "blobs/" + image.Layers[0].Digest.String()} {
				resp, err := getOCI(connected, p.base+"many/app/"+path)
				if err != nil {
					b.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || strings.HasPrefix(path, "blobs") && n != size {
					b.Errorf("%s: %s, %d bytes, %v", path, resp.Status, n, err)
				}
			}
		})
	}
	waiting.Wait()
	close(start)
	all.Wait()
	b.Logf("%d pulls at once      %-13s %.1f s, %.0f ms of processor time, memory %d MB at rest, %d MB at its peak", pulls, p.name, time.Since(began).Seconds(),
		float64((cpu(b, p.pid) - before).Milliseconds()), rest>>10, memory(b, p.pid, "VmHWM")>>10)
}

// client pushes and pulls as docker does.
type client struct {
	b    *testing.B
	base string // http://HOST/v2/
}

const largeLayer = 32 << 20

func (a client) pushLarge(round, megabytes int) int {
	a.each(megabytes<<20/largeLayer, func(i int) {
		a.push(fmt.Sprintf("large/r%d", round), fmt.Sprint(i), noise(round<<16|i, largeLayer))
	})
	return megabytes
}

func (a client) pullLarge(round, megabytes int) int {
	a.each(megabytes<<20/largeLayer, func(i int) { a.pull(fmt.Sprintf("large/r%d", round), fmt.Sprint(i)) })
	return megabytes
}

func (a client) pushSmall(round, images int) int {
	a.each(images, func(i int) {
		text := fmt.Sprintf("%s %d %d", a.base, round, i)
		a.push("small/app", fmt.Sprintf("%d-%d", round, i), []byte(text+"a"), []byte(text+"b"), []byte(text+"c"))
	})
	return images
}

func (a client) pullSmall(round, images int) int {
	a.each(images, func(i int) { a.pull("small/app", fmt.Sprintf("%d-%d", round, i)) })
	return images
}

// each runs fn for all numbers below n, four at a time.
func (a client) each(n int, fn func(i int)) {
	numbers := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range numbers {
				fn(i)
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	all.Wait()
}

func (a client) push(repo, tag string, layers ...[]byte) v1.Manifest {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = a.blob(repo, []byte("{}"))
	m.Config.MediaType = v1.MediaTypeImageConfig
	for _, l := range layers {
		m.Layers = append(m.Layers, a.blob(repo, l))
	}
	raw, err := json.Marshal(m)
	ok(a.b, err)
	a.do("PUT", a.base+repo+"/manifests/"+tag, raw, http.StatusCreated)
	return m
}

// blob sends a blob unless it is there: a POST, a stream, and a PUT with the digest.
func (a client) blob(repo string, content []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}
	resp, err := http.Head(a.base + repo + "/blobs/" + d.Digest.String())
	ok(a.b, err)
	ok(a.b, resp.Body.Close())
	if resp.StatusCode == http.StatusOK {
		return d
	}
	at := a.do("POST", a.base+repo+"/blobs/uploads/", nil, http.StatusAccepted)
	at = a.do("PATCH", at, content, http.StatusAccepted)
	sign := "?"
	if strings.Contains(at, "?") {
		sign = "&"
	}
	a.do("PUT", at+sign+"digest="+d.Digest.String(), nil, http.StatusCreated)
	return d
}

// do sends a request and returns where it leads.
func (a client) do(method, url string, body []byte, status int) string {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	ok(a.b, err)
	if strings.Contains(url, "/manifests/") {
		req.Header.Set("Content-Type", v1.MediaTypeImageManifest)
	}
	resp, err := http.DefaultClient.Do(req)
	ok(a.b, err)
	text, err := io.ReadAll(resp.Body)
	ok(a.b, err)
	ok(a.b, resp.Body.Close())
	if resp.StatusCode != status {
		a.b.Errorf("%s %s: %s %s", method, url, resp.Status, text)
	}
	if at, err := resp.Location(); err == nil {
		return at.String()
	}
	return ""
}

func (a client) pull(repo, tag string) {
	resp, err := getOCI(http.DefaultClient, a.base+repo+"/manifests/"+tag)
	ok(a.b, err)
	var m v1.Manifest
	ok(a.b, json.NewDecoder(resp.Body).Decode(&m))
	ok(a.b, resp.Body.Close())
	for _, d := range append(m.Layers, m.Config) {
		resp, err := http.Get(a.base + repo + "/blobs/" + d.Digest.String())
		ok(a.b, err)
		n, err := io.Copy(io.Discard, resp.Body)
		ok(a.b, err)
		ok(a.b, resp.Body.Close())
		if n != d.Size {
			a.b.Errorf("%d bytes of %d", n, d.Size)
		}
	}
}

// getOCI accepts OCI manifests, which distribution demands.
func getOCI(c *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", v1.MediaTypeImageManifest+", */*")
	return c.Do(req)
}

// noise is content that no two calls share.
func noise(seed, size int) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = source.Read(b) // never fails
	return b
}

func startOurs(b *testing.B) peer {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+b.TempDir())
	out, err := cmd.StdoutPipe()
	ok(b, err)
	start(b, cmd)
	address, err := bufio.NewReader(out).ReadString('\n')
	ok(b, err)
	return peer{"Gantry", "http://" + strings.TrimSpace(address) + "/v2/", cmd.Process.Pid}
}

func startDistribution(b *testing.B) (peer, bool) {
	program, err := exec.LookPath("registry")
	if err != nil {
		return peer{}, false
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(b, err)
	address := l.Addr().String()
	ok(b, l.Close())
	dir := b.TempDir()
	config := filepath.Join(dir, "config.yml")
	ok(b, os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/data}, delete: {enabled: true}}
http: {addr: %s}
`, dir, address), 0o600))
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	log, err := os.Create(filepath.Join(dir, "log")) // it logs every blob that is not there yet
	ok(b, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	start(b, cmd)
	p := peer{"distribution", "http://" + address + "/v2/", cmd.Process.Pid}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get(p.base); err == nil {
			ok(b, resp.Body.Close())
			return p, true
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			b.Fatalf("distribution's registry does not answer: %s", text)
		}
	}
}

func start(b *testing.B, cmd *exec.Cmd) {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	ok(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// cpu is the processor time of a process.
func cpu(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	ok(b, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	var ticks int
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		ok(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory is a figure of /proc/PID/status, in KiB.
func memory(b *testing.B, pid int, name string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	ok(b, err)
	_, rest, _ := strings.Cut(string(text), "\n"+name+":")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	ok(b, err)
	return n
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

func number(b testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	ok(b, err)
	return n
}

func ok(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
