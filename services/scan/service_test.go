package scan

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/scan/osvdb"
)

// TestMain is also the worker that the tests' services start. At an image that is
// called evil it dies, as it would of one that exhausts its memory.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "scan-worker" {
		os.Exit(m.Run())
	}
	var cfg WorkerConfig
	flags := flag.NewFlagSet("scan-worker", flag.ExitOnError)
	flags.StringVar(&cfg.Dir, "dir", "", "")
	flags.StringVar(&cfg.Database, "database", "", "")
	_ = flags.Parse(os.Args[2:])
	host, _, _ := strings.Cut(cfg.Database, "/")
	if c, err := net.DialTimeout("tcp", host, time.Second); err == nil && os.Geteuid() == 0 {
		fmt.Fprintln(os.Stderr, "the worker has the machine's network", c.Close())
		os.Exit(1)
	}
	in, jobs := io.Pipe()
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "evil") {
				fmt.Fprintln(os.Stderr, "fatal error: out of memory")
				os.Exit(2)
			}
			fmt.Fprintln(jobs, lines.Text())
		}
		_ = jobs.Close()
	}()
	if err := Worker(context.Background(), cfg, in, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestImagesAreScannedAsTheyComeAndWhenMoreIsKnown(t *testing.T) {
	ctx, host := context.Background(), newRegistry(t)
	image := push(t, host+"/shop/cart:1", debian(t, v1.Config{User: "1000"}))
	cluster := newCluster(t, host+"/shop/cart@"+image.DigestStr())
	s, results := newService(t, host, cluster)
	if r, err := s.Scan(ctx, image); r != nil || err != nil {
		t.Errorf("without a database the result is %+v, %v", r, err)
	}
	publish(t, s, host, opensslRecord)
	first := waitFor(t, results, image, "CVE-2024-1")
	if first.Target != host+"/shop/cart" || len(first.Vulnerabilities) != 1 || first.Database.Records != 1 {
		t.Errorf("result %+v", first)
	}
	cluster.waitFor(t, "pod cart: CVE-2024-1 (critical, libssl3, fixed in 3.0.11-1)")

	publish(t, s, host, opensslRecord, bashRecord)
	waitFor(t, results, image, "CVE-2024-2")
	cluster.waitFor(t, "pod cart: CVE-2024-2 (high, bash, fixed in 5.2.15-2+b1)")
	if r, err := s.Scan(ctx, image); err != nil || len(r.Vulnerabilities) != 2 {
		t.Errorf("result %+v, %v", r, err)
	}
	for series, want := range map[string]float64{
		"gantry_scan_findings shop/cart critical": 1, "gantry_scan_findings shop/cart high": 1, "gantry_scan_findings shop/cart low": 0,
		"gantry_scan_fixable shop/cart": 2, "gantry_scan_images": 1, "gantry_scan_waiting": 0, "gantry_scan_database_records": 2,
	} {
		waitForMetric(t, s, series, want)
	}
	for predicate, want := range map[string]int{attest.VulnerabilityPredicate: 1, attest.SPDXPredicate: 1} {
		claims, err := attest.Verify(ctx, image, predicate, results.Keys)
		if err != nil || len(claims) != want {
			t.Errorf("%d attestations %s, %v", len(claims), predicate, err)
		}
	}
	claims, _ := attest.Verify(ctx, image, attest.VulnerabilityPredicate, results.Keys)
	if _, found, err := attest.ParseScan(claims[0].Predicate); err != nil || found.Critical != 1 || found.High != 1 || found.Low != 0 {
		t.Errorf("policies read %+v, %v", found, err)
	}

	// A worker that dies of one image does not keep others from being scanned.
	evil := push(t, host+"/evil/app:1", labelled(t, "evil"))
	later := push(t, host+"/shop/later:1", labelled(t, "later"))
	s.Enqueue("evil/app", evil.DigestStr())
	s.Enqueue("shop/later", later.DigestStr())
	waitFor(t, results, later, "CVE-2024-1")
	if r, err := s.Scan(ctx, evil); r != nil || err != nil {
		t.Errorf("an image that cannot be scanned has the result %+v, %v", r, err)
	}

	// A file that does not fit into memory goes through the worker's own directory, which it
	// reaches without any right. It may fetch more than one layer after it has given them up.
	big := push(t, host+"/shop/big:1", withFile(t, labelled(t, "big"), "app/big.jar", 9<<20))
	if r, err := s.Scan(ctx, big); err != nil || r == nil || len(r.Vulnerabilities) != 2 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "big.jar could not be read as java/archive") {
		t.Errorf("an image with a large file has the result %+v, %v", r, err)
	}

	// An index with an image for this machine is scanned as that.
	tag, err := name.ParseReference(host + "/shop/multi:1")
	must(t, err)
	platform := linux()
	index := mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{Add: labelled(t, "multi"), Descriptor: v1.Descriptor{Platform: &platform}})
	must(t, remote.WriteIndex(tag, index))
	digest, err := index.Digest()
	must(t, err)
	if r, err := s.Scan(ctx, tag.Context().Digest(digest.String())); err != nil || r == nil || len(r.Vulnerabilities) != 2 {
		t.Errorf("an index has the result %+v, %v", r, err)
	}
}

// A registry keeps images of others: it takes nothing to be attached to them, and while the
// other does not answer it cannot tell what is.
func TestImagesOfOtherRegistriesKeepNobodyWaiting(t *testing.T) {
	var away atomic.Bool
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case away.Load() && strings.HasPrefix(r.URL.Path, "/v2/away/") && (strings.Contains(r.URL.Path, "/referrers/") || strings.Contains(r.URL.Path, "sha256-")):
			http.Error(w, `{"errors":[{"code":"UNAVAILABLE"}]}`, http.StatusBadGateway)
		case away.Load() && strings.HasPrefix(r.URL.Path, "/v2/kept/") && !read:
			http.Error(w, `{"errors":[{"code":"UNSUPPORTED"}]}`, http.StatusMethodNotAllowed)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	gone := push(t, host+"/away/app:1", labelled(t, "away"))
	kept := push(t, host+"/kept/app:1", labelled(t, "kept"))
	own := push(t, host+"/shop/app:1", labelled(t, "own"))
	away.Store(true)
	s, results := newService(t, host, newCluster(t, "none"))
	s.Enqueue("away/app", gone.DigestStr())
	publish(t, s, host, opensslRecord)
	waitFor(t, results, own, "CVE-2024-1")
	if r, err := s.Scan(t.Context(), kept); r != nil || err != nil {
		t.Errorf("what takes no result has the result %+v, %v", r, err)
	}
	poll(t, "only the image of which nothing can be told waits", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Equal(s.queue, []string{"away/app@" + gone.DigestStr()})
	})
}

func TestTheWorkerMayOnlyReadTheRegistry(t *testing.T) {
	host := newRegistry(t)
	s, _ := newService(t, host, newCluster(t, ""))
	server, err := s.serveRegistry()
	must(t, err)
	t.Cleanup(func() { _ = server.Close() })
	client := &http.Client{Transport: overSocket(filepath.Join(s.dir, workerDir, workerSocket))}
	for method, want := range map[string]int{http.MethodGet: http.StatusOK, http.MethodPost: http.StatusMethodNotAllowed, http.MethodDelete: http.StatusMethodNotAllowed, http.MethodPut: http.StatusMethodNotAllowed} {
		req, err := http.NewRequest(method, "http://anywhere/v2/", nil)
		must(t, err)
		res, err := client.Do(req)
		must(t, err)
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", method, res.StatusCode, want)
		}
	}
}

// waitForMetric waits until a series, named with the values of its labels, has a value.
func waitForMetric(t *testing.T, s *Service, series string, want float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&exposition{s})
	var got map[string]float64
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		families, err := registry.Gather()
		must(t, err)
		got = map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = m.GetGauge().GetValue()
			}
		}
		if v, there := got[series]; there && v == want {
			return
		}
	}
	t.Errorf("%s is not %v: %v", series, want, got)
}

func labelled(t *testing.T, value string) v1.Image {
	t.Helper()
	return debian(t, v1.Config{Labels: map[string]string{"name": value}})
}

func publish(t *testing.T, s *Service, host string, records ...string) {
	t.Helper()
	_, err := osvdb.Push(context.Background(), database(t, records...), osvdb.Reference(host))
	must(t, err)
	s.Enqueue(osvdb.Repository, "")
}

func newService(t *testing.T, host string, c *cluster) (*Service, *Results) {
	t.Helper()
	password := []byte("test")
	private, public, err := attest.GenerateKey(password)
	must(t, err)
	signer, err := attest.ParsePrivateKey(private, password)
	must(t, err)
	key, err := attest.ParsePublicKey(public)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	s, err := NewService(ServiceConfig{
		Client: &rest.Config{Host: c.url, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Registry: host, DataDir: t.TempDir(), Version: "test",
		Signer:  func(context.Context) (*attest.Signer, error) { return signer, nil },
		Command: []string{self, "scan-worker"}, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, &Results{Keys: []*attest.PublicKey{key}}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// cluster is the part of an API server that a service uses: one pod, and its events.
type cluster struct {
	url    string
	mu     sync.Mutex
	events []string
}

func newCluster(t *testing.T, imageID string) *cluster {
	t.Helper()
	c := &cluster{}
	pod := corev1.Pod{}
	pod.Name, pod.Namespace = "cart", "shop"
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", ImageID: imageID}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, map[string]any{"kind": "PodList", "apiVersion": "v1", "items": []corev1.Pod{pod}})
	})
	mux.HandleFunc("POST /api/v1/namespaces/shop/events", func(w http.ResponseWriter, r *http.Request) {
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, strings.ToLower(e.InvolvedObject.Kind)+" "+e.InvolvedObject.Name+": "+strings.TrimPrefix(e.Message, "The image that runs has known vulnerabilities: "))
		answerJSON(w, e)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// waitFor waits for the last event to be this.
func (c *cluster) waitFor(t *testing.T, want string) {
	t.Helper()
	poll(t, "the event "+want, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.events) > 0 && c.events[len(c.events)-1] == want
	})
}
