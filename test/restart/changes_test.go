package restart

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/gantryhq/gantry/internal/testenv"
)

const (
	changesEnv    = "GANTRY_CHANGES"
	changeRateEnv = "GANTRY_CHANGE_RATE"

	certificate = "web-tls" // Secret
	secureHost  = "secure.restart.test"
)

// TestChangesUnderTraffic changes everything that can be changed while clients of every
// kind ask the gateway, and servers die of SIGTERM with whatever is on its way to them.
func TestChangesUnderTraffic(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	times, rate := number(t, changesEnv, 22), number(t, changeRateEnv, 200)
	s := startStory(t)
	c := &changer{story: s, replicas: replicas}
	c.serveTLS()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	loads := c.loads(rate)
	outcomes := make([]*Outcome, len(loads))
	for i, l := range loads {
		running.Go(func() { outcomes[i] = l.run(ctx) })
	}
	d := &diary{began: time.Now(), count: map[string]int{}}
	defer func() { // also when a change fails
		cancel()
		running.Wait()
		d.print()
		c.table(outcomes)
		c.judge(outcomes)
		if t.Failed() {
			t.Logf("the changes:\n%s", strings.Join(d.lines, "\n"))
		}
	}()
	for i := range times {
		change := c.choose(i)
		began := time.Now()
		change.make(i)
		d.note(change.name, began)
		if t.Failed() {
			break
		}
	}
}

// diary is what was changed, and when.
type diary struct {
	began time.Time
	count map[string]int
	lines []string
}

// often is after how many changes a long run shows how far it is.
const often = 100

func (d *diary) note(name string, began time.Time) {
	d.count[name]++
	d.lines = append(d.lines, fmt.Sprintf("%s %s, took %v", began.Format("15:04:05.000"), name, time.Since(began).Round(time.Millisecond)))
	if len(d.lines)%often == 0 {
		d.print()
	}
}

// print tells of the changes so far, and what the clients took of the processor.
func (d *diary) print() {
	var self unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &self) // cannot fail with these arguments
	used := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	took := time.Since(d.began)
	fmt.Printf("%d changes in %v: %v; the clients took %.2f of a core\n", len(d.lines), took.Round(time.Second), d.count, used.Seconds()/took.Seconds())
}

// judge fails the test when requests failed.
func (c *changer) judge(outcomes []*Outcome) {
	c.t.Helper()
	for _, o := range outcomes {
		if len(o.Failures) > 0 {
			c.t.Errorf("%s: %d of %d requests failed, the first:\n%s", o.Kind, len(o.Failures), o.requests(),
				strings.Join(o.Failures[:min(10, len(o.Failures))], "\n"))
		}
		if o.requests() == 0 {
			c.t.Errorf("%s: no requests were sent", o.Kind)
		}
	}
}

// changer makes the changes.
type changer struct {
	*story
	replicas int
}

type change struct {
	name string
	make func(i int)
}

// choose is the i-th change.
func (c *changer) choose(i int) change {
	update, scale := change{"rolling updates", c.update}, change{"scalings", c.scale}
	edit, rotate := change{"route edits", c.edit}, change{"certificate rotations", c.rotate}
	all := []change{
		update, edit, scale, rotate, {"pod deletions", c.remove}, update, edit, scale, rotate, {"gateway upgrades", c.upgrade}, {"restarts of serve", c.restart},
	}
	return all[i%len(all)]
}

// loads are the clients. Those that keep their connections have four times the rate of
// those that connect for every request, which costs clients more than what is tested.
func (c *changer) loads(rate int) []load {
	secure := &tls.Config{ServerName: secureHost, InsecureSkipVerify: true, // which certificate is served, rotate looks at
		CurvePreferences: []tls.CurveID{tls.X25519}}
	const body = "some words"
	plain := func(a *asker) *asker { a.addr, a.host, a.careful = c.in.Gateway, host, true; return a }
	encrypted := func(a *asker) *asker {
		a.addr, a.host, a.careful, a.tls = c.in.Secure, secureHost, true, secure
		return a
	}
	kinds := []load{
		{kind: "GET", request: plain(&asker{}).ask},
		{kind: "POST", request: plain(&asker{body: body}).ask},
		{kind: "GET, new connections", request: plain(&asker{fresh: true}).ask},
		{kind: "POST, new connections", request: plain(&asker{fresh: true, body: body}).ask},
		{kind: "GET, TLS", request: encrypted(&asker{}).ask},
		{kind: "POST, TLS", request: encrypted(&asker{body: body}).ask},
		{kind: "POST, TLS, new connections", request: encrypted(&asker{fresh: true, body: body}).ask},
		{kind: "GET, HTTP/2", request: c.overHTTP2(secure, "")},
		{kind: "POST, HTTP/2", request: c.overHTTP2(secure, body)},
	}
	shares := []int{4, 4, 1, 1, 4, 4, 1, 4, 4}
	const all = 27
	for i := range kinds {
		kinds[i].rate = max(rate*shares[i]/all, 1)
	}
	return append(kinds, load{"WebSocket conversations", 5, plain(&asker{fresh: true}).talk})
}

// overHTTP2 sends requests over one HTTP/2 connection, or a new one when the gateway
// says goodbye to it.
func (c *changer) overHTTP2(secure *tls.Config, body string) func(context.Context) error {
	client := &http.Transport{TLSClientConfig: secure.Clone(), ForceAttemptHTTP2: true}
	c.t.Cleanup(client.CloseIdleConnections)
	return func(ctx context.Context) error {
		method, reader := http.MethodGet, io.Reader(nil)
		if body != "" {
			method, reader = http.MethodPost, strings.NewReader(body)
		}
		request, err := http.NewRequestWithContext(ctx, method, "https://"+c.in.Secure+"/", reader)
		if err != nil {
			return err
		}
		request.Host = secureHost
		response, err := client.RoundTrip(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK || string(got) != greeting {
			return fmt.Errorf("%s %s: %.80q", response.Proto, response.Status, got)
		}
		return nil
	}
}

// serveTLS gives the host a certificate and users a grace period that is usual.
func (c *changer) serveTLS() {
	c.t.Helper()
	ctx := c.t.Context()
	key, cert, _ := keyPair(c.t)
	_, err := c.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: certificate}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}, metav1.CreateOptions{})
	must(c.t, err)
	// A host of its own: one with a certificate sends plain requests to HTTPS.
	in, err := c.client.NetworkingV1().Ingresses(namespace).Get(ctx, "web", metav1.GetOptions{})
	must(c.t, err)
	secure := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "web-secure"}, Spec: *in.Spec.DeepCopy()}
	secure.Spec.Rules[0].Host = secureHost
	secure.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{secureHost}, SecretName: certificate}}
	_, err = c.client.NetworkingV1().Ingresses(namespace).Create(ctx, secure, metav1.CreateOptions{})
	must(c.t, err)
	c.changeDeployment(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(30))
		d.Spec.Strategy.RollingUpdate = nil
	})
	c.waitForReplicas()
	asker := &asker{addr: c.in.Secure, host: secureHost, fresh: true, tls: &tls.Config{ServerName: secureHost, InsecureSkipVerify: true}}
	c.waitFor("HTTPS", func() bool {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return asker.ask(ctx) == nil
	})
}

// update replaces all pods.
func (c *changer) update(i int) {
	c.changeDeployment(func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{"test/update": fmt.Sprint(i)}
	})
	c.waitForReplicas()
}

func (c *changer) scale(int) {
	c.replicas = map[int]int{3: 6, 6: 2, 2: 3}[c.replicas]
	c.changeDeployment(func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(c.replicas)) })
	c.waitForReplicas()
}

func (c *changer) remove(int) {
	c.t.Helper()
	pods, err := c.client.CoreV1().Pods(namespace).List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	must(c.t, err)
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			must(c.t, c.client.CoreV1().Pods(namespace).Delete(c.t.Context(), p.Name, metav1.DeleteOptions{}))
			break
		}
	}
	c.waitForReplicas()
}

// edit changes the routes around the one that is used.
func (c *changer) edit(i int) {
	c.changeIngress(func(in *networkingv1.Ingress) {
		in.Spec.Rules = in.Spec.Rules[:1]
		other := *in.Spec.Rules[0].DeepCopy()
		other.Host = fmt.Sprintf("other-%d.test", i)
		in.Spec.Rules = append(in.Spec.Rules, other)
		paths := in.Spec.Rules[0].HTTP
		paths.Paths = append(paths.Paths[:1:1], paths.Paths[0])
		paths.Paths[1].Path = fmt.Sprintf("/edit-%d", i)
	})
	other := &asker{addr: c.in.Gateway, host: fmt.Sprintf("other-%d.test", i), fresh: true}
	c.waitFor("the route to be served", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), requestTimeout)
		defer cancel()
		return other.ask(ctx) == nil
	})
}

// rotate replaces the certificate.
func (c *changer) rotate(int) {
	c.t.Helper()
	key, cert, leaf := keyPair(c.t)
	must(c.t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := c.client.CoreV1().Secrets(namespace).Get(c.t.Context(), certificate, metav1.GetOptions{})
		if err != nil {
			return err
		}
		secret.Data = map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}
		_, err = c.client.CoreV1().Secrets(namespace).Update(c.t.Context(), secret, metav1.UpdateOptions{})
		return err
	}))
	c.waitFor("the new certificate", func() bool {
		conn, err := tls.Dial("tcp", c.in.Secure, &tls.Config{ServerName: secureHost, InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		defer conn.Close()
		return bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, leaf)
	})
}

func (c *changer) restart(int) {
	c.in.Stop(c.t, syscall.SIGTERM)
	c.in.Serve(c.t)
}

// upgrade has the next `gantry serve` find a gateway of another version, which it
// replaces by its own.
func (c *changer) upgrade(int) {
	c.t.Helper()
	c.in.Stop(c.t, syscall.SIGTERM)
	path := filepath.Join(c.in.DataDir, "run", "gateway.json")
	record := func() (all map[string]any) {
		data, err := os.ReadFile(path)
		must(c.t, err)
		must(c.t, json.Unmarshal(data, &all))
		return all
	}
	old := record()
	old["version"] = "an older one"
	data, err := json.Marshal(old)
	must(c.t, err)
	must(c.t, os.WriteFile(path, data, 0o600))
	c.in.Serve(c.t)
	if now := record(); fmt.Sprint(now["process"]) == fmt.Sprint(old["process"]) {
		c.t.Error("the gateway was not replaced")
	}
}

func (c *changer) changeDeployment(change func(*appsv1.Deployment)) {
	c.t.Helper()
	must(c.t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		d, err := c.client.AppsV1().Deployments(namespace).Get(c.t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(d)
		_, err = c.client.AppsV1().Deployments(namespace).Update(c.t.Context(), d, metav1.UpdateOptions{})
		return err
	}))
}

func (c *changer) changeIngress(change func(*networkingv1.Ingress)) {
	c.t.Helper()
	must(c.t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		in, err := c.client.NetworkingV1().Ingresses(namespace).Get(c.t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(in)
		_, err = c.client.NetworkingV1().Ingresses(namespace).Update(c.t.Context(), in, metav1.UpdateOptions{})
		return err
	}))
}

// waitForReplicas waits until the Deployment's pods are all of its present kind, and
// ready.
func (c *changer) waitForReplicas() {
	c.t.Helper()
	c.waitFor("all replicas to be up to date and ready", func() bool {
		d, err := c.client.AppsV1().Deployments(namespace).Get(c.t.Context(), "web", metav1.GetOptions{})
		want := int32(c.replicas)
		return err == nil && c.readyPods() == c.replicas && d.Status.ObservedGeneration == d.Generation &&
			d.Status.Replicas == want && d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want
	})
}

// readyPods counts the pods that stay and are ready.
func (c *changer) readyPods() (ready int) {
	c.t.Helper()
	pods, err := c.client.CoreV1().Pods(namespace).List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	must(c.t, err)
	for _, p := range pods.Items {
		for _, condition := range p.Status.Conditions {
			if p.DeletionTimestamp == nil && condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready
}

// keyPair makes a key and a certificate, in PEM, and the certificate as it is sent.
func keyPair(t *testing.T) (key, cert, leaf []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{secureHost}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	leaf, err = x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), leaf
}
