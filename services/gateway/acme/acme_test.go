package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gantryhq/gantry/services/gateway/acme/acmetest"
)

// answers is what a data plane does for challenges.
type answers struct{ byPath sync.Map }

func (a *answers) Offer(token, answer string) {
	a.byPath.Store("/.well-known/acme-challenge/"+token, answer)
}
func (a *answers) Withdraw(token string) { a.byPath.Delete("/.well-known/acme-challenge/" + token) }

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if answer, ok := a.byPath.Load(r.URL.Path); ok {
		io.WriteString(w, answer.(string))
		return
	}
	http.NotFound(w, r)
}

// authority is a certificate authority that asks challenges at their server,
// whatever the host is called.
func authority(t *testing.T, challenges http.Handler) *httptest.Server {
	t.Helper()
	port80 := httptest.NewServer(challenges)
	t.Cleanup(port80.Close)
	return acmetest.Authority(t, port80.Listener.Addr().(*net.TCPAddr).Port)
}

func newManager(t *testing.T, kube *fake.Clientset, challenges Challenges, server *httptest.Server) *Manager {
	return New(Config{Kube: kube, Challenges: challenges, HTTP: server.Client(), Log: slog.New(slog.DiscardHandler)})
}

// until waits for a condition after every change that the manager tells of.
func until(t *testing.T, m *Manager, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, ended := make(chan struct{}, 16), make(chan struct{})
	go func() {
		defer close(ended)
		m.Run(ctx, func() { changes <- struct{}{} })
	}()
	defer func() { cancel(); <-ended }()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-changes:
		case <-limit:
			t.Fatalf("never: %s; state: %s", what, m.State(shop))
		}
	}
}

var shop = types.NamespacedName{Namespace: "shop", Name: "shop-tls"}

func TestACertificateIsGotAndRenewed(t *testing.T) {
	challenges := &answers{}
	server := authority(t, challenges)
	kube := fake.NewClientset()
	wish := Wish{Secret: shop, Hosts: []string{"shop.example.com", "www.example.com"}, Directory: server.URL + acmetest.Directory, Email: "ops@example.com"}
	get := func() *corev1.Secret {
		s, err := kube.CoreV1().Secrets("shop").Get(context.Background(), "shop-tls", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return s
	}

	m := newManager(t, kube, challenges, server)
	m.Want([]Wish{wish})
	if state := m.State(shop); !strings.Contains(state, "requested from") {
		t.Errorf("state %q", state)
	}
	until(t, m, "there is a certificate", func() bool { return get() != nil })
	first := get()
	pair, err := tls.X509KeyPair(first.Data[corev1.TLSCertKey], first.Data[corev1.TLSPrivateKeyKey])
	if err != nil || first.Type != corev1.SecretTypeTLS {
		t.Fatalf("Secret of type %s: %v", first.Type, err)
	}
	for _, host := range wish.Hosts {
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if state := m.State(shop); state != "" {
		t.Errorf("state %q", state)
	}

	// It will do, so the next round asks for nothing.
	until(t, m, "the certificate has been looked at", func() bool { return true })
	if got := get(); string(got.Data[corev1.TLSCertKey]) != string(first.Data[corev1.TLSCertKey]) {
		t.Error("a certificate that is fresh was replaced")
	}

	// A further host needs another one; the account is the same.
	wish.Hosts = append(wish.Hosts, "x.example.com")
	m = newManager(t, kube, challenges, server)
	m.Want([]Wish{wish})
	until(t, m, "there is another certificate", func() bool {
		return string(get().Data[corev1.TLSCertKey]) != string(first.Data[corev1.TLSCertKey])
	})
	secrets, err := kube.CoreV1().Secrets("shop").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(secrets.Items) != 2 {
		t.Errorf("%d Secrets, want the certificate and one account, %v", len(secrets.Items), err)
	}
	challenges.byPath.Range(func(path, _ any) bool {
		t.Errorf("the answer at %s is still offered", path)
		return true
	})
}

func TestARefusedCertificateSaysWhy(t *testing.T) {
	server := authority(t, http.NotFoundHandler()) // the answers are served nowhere
	kube := fake.NewClientset()
	m := newManager(t, kube, &answers{}, server)
	m.Want([]Wish{{Secret: shop, Hosts: []string{"shop.example.com"}, Directory: server.URL + acmetest.Directory}})
	until(t, m, "the refusal is known", func() bool { return strings.Contains(m.State(shop), "prove that shop.example.com is ours") })
	if state := m.State(shop); !strings.Contains(state, "tried again after") {
		t.Errorf("state %q", state)
	}
}

func TestANamespaceThatDoesNotAllowItSaysHowTo(t *testing.T) {
	challenges := &answers{}
	server := authority(t, challenges)
	kube := fake.NewClientset()
	kube.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), "", errors.New("no"))
	})
	m := newManager(t, kube, challenges, server)
	m.Want([]Wish{{Secret: shop, Hosts: []string{"shop.example.com"}, Directory: server.URL + acmetest.Directory}})
	until(t, m, "the refusal is known", func() bool {
		return strings.Contains(m.State(shop), "kubectl -n shop create rolebinding gateway-certificates")
	})
}

func TestASecretOfSomebodyElseStays(t *testing.T) {
	challenges := &answers{}
	server := authority(t, challenges)
	own := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-tls"}, Data: map[string][]byte{"tls.crt": []byte("mine")}}
	kube := fake.NewClientset(own)
	m := newManager(t, kube, challenges, server)
	m.Want([]Wish{{Secret: shop, Hosts: []string{"shop.example.com"}, Directory: server.URL + acmetest.Directory}})
	until(t, m, "the refusal is known", func() bool { return strings.Contains(m.State(shop), "is not ours") })
	if s, err := kube.CoreV1().Secrets("shop").Get(context.Background(), "shop-tls", metav1.GetOptions{}); err != nil || string(s.Data["tls.crt"]) != "mine" {
		t.Errorf("%v, %v", s, err)
	}
}

func TestRenewalComesWithAThirdOfTheLifetimeLeft(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(90 * 24 * time.Hour)}
	if got := renewAt(leaf); got != begin.Add(60*24*time.Hour) {
		t.Errorf("renewed at %s", got)
	}
}
