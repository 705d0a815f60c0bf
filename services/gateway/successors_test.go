package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	randv2 "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/testenv"
)

const (
	// successorsEnv is how often the gateway is replaced.
	successorsEnv = "GANTRY_SUCCESSORS"

	plainHost, secureHost = "plain.test", "secure.test"

	// hesitation is how long clients take from looking whether their connection is open to
	// sending, at most: one that is not told before, and asks then, must not be reset.
	hesitation = 400 * time.Millisecond
)

// Gateways replace one another while clients of many kinds keep their connections and use
// them rarely, often or once. No client sends anything twice, and none fails.
func TestNoRequestFailsWhenGatewaysAreReplaced(t *testing.T) {
	testenv.LongRunning(t)
	times, err := strconv.Atoi(os.Getenv(successorsEnv))
	if err != nil {
		times = 12
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello")
	}))
	defer backend.Close()
	addresses := freeAddresses(t, 2)
	cfg := Config{
		Client: smallAPI(t, shopObjects(t, backend.URL)), Listen: addresses[0], TLSListen: addresses[1],
		Admin: filepath.Join(t.TempDir(), "admin.sock"),
	}
	hurry := make(chan struct{})
	cfg.Hurry = hurry
	var ended []<-chan error
	end, done := start(t, cfg)
	ended = append(ended, done)
	awaitReady(t, cfg.Admin)

	var clients crowd
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range 360 {
		clients.add(ctx, &visitor{plain: addresses[0], secure: addresses[1], kind: i % 6, pause: []time.Duration{0, 30, 300, 1500, 3000, 6000, 6000}[i%7] * time.Millisecond})
	}
	cfg.TakeOver = true
	for range times {
		next, done := start(t, cfg)
		ended = append(ended, done)
		awaitSuccessor(t, cfg.Admin)
		end()
		end = next
		<-time.After(time.Duration(randv2.IntN(300)) * time.Millisecond) // so that clients are met in different moments
	}
	stop()
	clients.running.Wait()
	t.Logf("%d requests while the gateway was replaced %d times", clients.sent.Load(), times)
	if clients.sent.Load() == 0 {
		t.Error("nobody sent anything")
	}
	for _, failure := range clients.failures[:min(20, len(clients.failures))] {
		t.Error(failure)
	}
	close(hurry)
	end()
	for _, done := range ended {
		if err := <-done; err != nil {
			t.Errorf("a gateway ended with %v", err)
		}
	}
}

// crowd are clients that know nothing of each other.
type crowd struct {
	running  sync.WaitGroup
	sent     atomic.Int64
	mu       sync.Mutex
	failures []string
}

func (c *crowd) add(ctx context.Context, v *visitor) {
	c.running.Go(func() {
		defer v.leave()
		for ctx.Err() == nil {
			c.sent.Add(1)
			if err := v.ask(); err != nil {
				c.mu.Lock()
				c.failures = append(c.failures, fmt.Sprintf("%s: kind %d, pause %v, used %d times, last %v ago: %v", time.Now().Format("15:04:05.000"), v.kind, v.pause, v.used, time.Since(v.last).Round(time.Millisecond), err))
				c.mu.Unlock()
				v.leave()
			}
			v.last = time.Now()
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(float64(v.pause)*(0.5+randv2.Float64())) + time.Millisecond):
			}
		}
	})
}

// visitor is one client, with one connection at a time.
type visitor struct {
	plain, secure string // addresses
	kind          int
	pause         time.Duration // between two requests

	conn   net.Conn
	socket *net.TCPConn // below it
	in     *bufio.Reader
	used   int
	last   time.Time
}

// ask sends one request, on the connection of the one before if that is still there.
func (v *visitor) ask() error {
	if v.conn != nil && v.closed() {
		v.leave()
	} else if v.conn != nil && v.pause > 0 {
		<-time.After(time.Duration(randv2.Int64N(int64(hesitation)))) // another program has the processor
	}
	encrypted := v.kind >= 4
	if v.conn == nil {
		if err := v.connect(encrypted); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	v.conn.SetDeadline(time.Now().Add(20 * time.Second))
	host := plainHost
	if encrypted {
		host = secureHost
	}
	text := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	switch v.kind {
	case 1, 5:
		text = fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\n\r\nbody", host)
	case 2: // carried by net/http
		text = fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nIdempotency-Key: 1\r\nContent-Length: 4\r\n\r\nbody", host)
	case 3: // once
		text = fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	}
	if _, err := io.WriteString(v.conn, text); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	response, err := http.ReadResponse(v.in, nil)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || string(body) != "hello" {
		return fmt.Errorf("%s: %q, %w", response.Status, body, errors.Join(err))
	}
	v.used++
	if response.Close {
		v.leave()
	}
	return nil
}

func (v *visitor) connect(encrypted bool) error {
	address := v.plain
	if encrypted {
		address = v.secure
	}
	conn, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		return err
	}
	v.conn, v.socket, v.used = conn, conn.(*net.TCPConn), 0
	if encrypted {
		v.conn = tls.Client(conn, &tls.Config{ServerName: secureHost, InsecureSkipVerify: true})
	}
	v.in = bufio.NewReader(v.conn)
	return nil
}

// closed tells whether the other side has closed the connection, or says that it will: the
// farewell of TLS arrives as bytes.
func (v *visitor) closed() (closed bool) {
	raw, err := v.socket.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = err != unix.EAGAIN
		return true
	})
	return closed || err != nil
}

func (v *visitor) leave() {
	if v.conn != nil {
		v.conn.Close()
		v.conn = nil
	}
}

// shopObjects are an Ingress with two hosts, one of them with a certificate, and what
// stands behind it.
func shopObjects(t *testing.T, backend string) map[string][]any {
	u, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(u.Host)
	rule := func(host string) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: "/", PathType: new(networkingv1.PathTypePrefix),
			Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}},
		}}}}}
	}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "web"}
	slice := meta
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
	plain, secure := meta, meta
	secure.Name = "secure"
	return map[string][]any{
		"namespaces": {corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		"services":   {corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}},
		"endpointslices": {discoveryv1.EndpointSlice{
			ObjectMeta: slice, AddressType: discoveryv1.AddressTypeIPv4,
			Ports:     []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(at.Port()))}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{at.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
		}},
		"secrets": {corev1.Secret{ObjectMeta: meta, Type: corev1.SecretTypeTLS, Data: certificate(t)}},
		"ingresses": {
			networkingv1.Ingress{ObjectMeta: plain, Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{rule(plainHost)}}},
			networkingv1.Ingress{ObjectMeta: secure, Spec: networkingv1.IngressSpec{
				Rules: []networkingv1.IngressRule{rule(secureHost)}, TLS: []networkingv1.IngressTLS{{Hosts: []string{secureHost}, SecretName: "web"}},
			}},
		},
	}
}

// certificate is the content of a Secret.
func certificate(t *testing.T) map[string][]byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{secureHost}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

func freeAddresses(t *testing.T, n int) (free []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		free = append(free, l.Addr().String())
	}
	return free
}

// awaitReady waits until a gateway at the socket has read its routes.
func awaitReady(t *testing.T, socket string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	if !poll(20*time.Second, func() bool {
		response, err := client.Get("http://gateway/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}) {
		t.Fatal("the gateway does not become ready")
	}
}

// awaitSuccessor waits until another gateway than now is ready at the socket.
func awaitSuccessor(t *testing.T, socket string) {
	t.Helper()
	before, err := os.Lstat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if !poll(20*time.Second, func() bool {
		now, err := os.Lstat(socket)
		return err == nil && !os.SameFile(before, now)
	}) {
		t.Fatal("the successor does not appear")
	}
	awaitReady(t, socket)
}
