package alerts

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/storage"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/test/instance"
)

// expected are the alerts that testdata/trouble.yaml and the requests to it must raise.
var expected = []struct {
	alert  string
	object []string
}{
	{"PodCrashLooping", []string{"namespace", "trouble", "pod", "~crashing-", "container", "main"}},
	{"ContainerOOMKilled", []string{"namespace", "trouble", "pod", "~hungry-", "container", "main"}},
	{"ImagePullFailing", []string{"namespace", "trouble", "pod", "unpulled", "container", "main"}},
	{"ContainerCannotStart", []string{"namespace", "trouble", "pod", "unconfigured", "container", "main"}},
	{"PodPending", []string{"namespace", "trouble", "pod", "homeless"}},
	{"JobFailed", []string{"namespace", "trouble", "job_name", "failing"}},
	{"RouteFailing", []string{"namespace", "trouble", "route", "Ingress/trouble/web"}},
	{"PodNotReady", []string{"namespace", "trouble", "pod", "unready"}},
	{"VolumeFilling", []string{"namespace", "trouble", "persistentvolumeclaim", "data"}},
	{"CertificateExpiring", []string{"namespace", "trouble", "secret_name", "web-tls"}},
}

// Real faults in a running Gantry have the shape that is simulated: the same rules find them, in samples that a real
// monitor scraped from real exporters, and every series of the model is one that is there.
func TestRealFaultsAreFound(t *testing.T) {
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	manifest, err := os.ReadFile("testdata/trouble.yaml")
	check(t, err)
	manifest = bytes.ReplaceAll(bytes.ReplaceAll(manifest, []byte("BUSYBOX"), []byte(in.Registry+"/base/busybox:latest")), []byte("MISSING"), []byte(in.Registry+"/no/such:1"))
	apply := exec.CommandContext(t.Context(), "kubectl", "--kubeconfig", in.Kubeconfig(), "apply", "-f", "-")
	apply.Stdin = bytes.NewReader(manifest)
	out, err := apply.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	client := in.Client(t)
	_, err = client.CoreV1().Secrets("trouble").Create(t.Context(), pairUntil(t, time.Now().Add(72*time.Hour)), metav1.CreateOptions{})
	check(t, err)
	go visit(t.Context(), in.Gateway)

	real, m := newCopy(client), newMonitor(t, 1)
	started := time.Now()
	within := map[int]time.Duration{}
	for len(within) < len(expected) {
		if time.Since(started) > 4*time.Minute {
			t.Fatalf("after four minutes only these alerts have come: %v\nfiring: %v", within, m.firing())
		}
		check(t, real.update(t.Context(), m))
		for _, g := range m.groups {
			g.Eval(t.Context(), time.Now())
		}
		for _, l := range m.firing() {
			known := false
			for i, e := range expected {
				if l.Get(labels.AlertName) == e.alert && names(l, e.object) {
					known = true
					if within[i] == 0 {
						within[i] = time.Since(started)
						t.Logf("%s after %s", e.alert, within[i].Round(time.Second))
					}
				}
			}
			if !known && l.Get("namespace") != "trouble" {
				t.Logf("beside: %s", l) // the machine that runs the tests may have troubles of its own
			}
		}
		<-time.After(2 * time.Second)
	}
	theModelIsReal(t, real)
}

// unreal are series of the model that this Gantry has no reason to tell.
var unreal = []string{
	"http_requests_total",            // of workloads
	"gantry_node_clock_step_seconds", // the clock has not leapt
	"gantry_node_clock_step_timestamp_seconds",
	"gantry_trust_last_refusal_timestamp_seconds", // test/script holds images against policies
	"kube_", "gantry_build_", // the real exposition tells them here too
}

// theModelIsReal compares names and labels of all series of a healthy world with those of a Gantry.
func theModelIsReal(t *testing.T, real *copied) {
	s, m := newShop(1), newMonitor(t, 1)
	s.busyHour()
	watch(m, s.world)
	for s.now < 300 {
		s.step()
		check(t, m.step(s.now, false))
	}
	missing := map[string]bool{}
	for _, target := range m.targets {
		for _, one := range target.series {
			shape := shapeOf(one.labels)
			name := one.labels.Get(labels.MetricName)
			if !real.shapes[shape] && !slices.ContainsFunc(unreal, func(p string) bool { return strings.HasPrefix(name, p) }) && target.labels[1] != "kubernetes-pods" {
				missing[shape] = true
			}
		}
	}
	for _, shape := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("the model has series that Gantry has not: %s", shape)
	}
}

// shapeOf is a series' name, job and the names of its labels.
func shapeOf(l labels.Labels) string {
	var list []string
	l.Range(func(one labels.Label) {
		if one.Name != labels.MetricName {
			list = append(list, one.Name)
		}
	})
	return l.Get(labels.MetricName) + "{" + strings.Join(list, ",") + "} of job " + l.Get("job")
}

// copied follows what the monitor of a running Gantry has scraped.
type copied struct {
	client kubernetes.Interface
	series map[string]*series
	round  int
	shapes map[string]bool
}

func newCopy(client kubernetes.Interface) *copied {
	return &copied{client: client, series: map[string]*series{}, shapes: map[string]bool{}}
}

// update copies the newest samples, with the times they were scraped at.
func (c *copied) update(ctx context.Context, m *monitor) error {
	text, err := c.client.CoreV1().RESTClient().Get().AbsPath("/prometheus/federate").Param("match[]", `{job=~".+"}`).DoRaw(ctx)
	if apierrors.IsServiceUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c.round++
	a := m.db.Appender(ctx)
	p := textparse.NewPromParser(text, labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, a.Rollback())
		}
		if entry != textparse.EntrySeries {
			continue
		}
		key, stamp, v := p.Series()
		s := c.series[string(key)]
		if s == nil {
			s = &series{}
			p.Labels(&s.labels)
			c.series[string(key)] = s
			c.shapes[shapeOf(s.labels)] = true
		}
		s.round = c.round
		ref, err := a.Append(s.ref, s.labels, *stamp, v)
		if errors.Is(err, storage.ErrOutOfOrderSample) {
			continue // it was away, was marked stale since, and is back as it was
		}
		if err != nil {
			return errors.Join(err, a.Rollback())
		}
		s.ref = ref
	}
	for key, s := range c.series {
		if s.round != c.round {
			_, e := a.Append(s.ref, s.labels, time.Now().UnixMilli(), stale)
			err = errors.Join(err, e)
			delete(c.series, key)
		}
	}
	if err != nil {
		return errors.Join(err, a.Rollback())
	}
	return a.Commit()
}

// visit asks the web server of the trouble for its error, twenty times a second, until ctx ends.
func visit(ctx context.Context, gateway string) {
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gateway+"/cgi-bin/wrong", nil)
		if err != nil {
			return
		}
		r.Host = "web.trouble.test"
		if resp, err := http.DefaultClient.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
}

// pairUntil is a Secret with a certificate that was made three months ago.
func pairUntil(t *testing.T, until time.Time) *corev1.Secret {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.trouble.test"}, DNSNames: []string{"web.trouble.test"},
		NotBefore: until.Add(-90 * 24 * time.Hour), NotAfter: until}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "web-tls", Namespace: "trouble"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}}
}
