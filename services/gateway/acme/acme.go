// Package acme gets certificates from authorities that speak ACME (RFC 8555) and
// keeps them valid. It proves that a host is ours by the challenge http-01, which
// the data plane answers on port 80.
//
// Certificates are Secrets of type kubernetes.io/tls, which the gateway follows
// as any other; the account's key is a Secret of its own. A Secret that somebody
// else made is never written to. One certificate is asked for at a time, and one
// that was refused not again before some time has passed, so that no mistake
// here uses up what the authority allows.
//
// The gateway may write Secrets only in namespaces where somebody has bound the
// role system:gantry:gateway:certificates; elsewhere State says how to do that.
//
// Imported by services/gateway and its controller only.
package acme

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Wish is a certificate that somebody wants to have.
type Wish struct {
	Secret    types.NamespacedName // where to put it
	Hosts     []string             // sorted
	Directory string               // URL of the authority
	Email     string               // for the authority's warnings, or ""
}

// Challenges is where answers to an authority's challenges are served: below
// /.well-known/acme-challenge/ on port 80.
type Challenges interface {
	Offer(token, answer string)
	Withdraw(token string)
}

// Config is what a Manager works with.
type Config struct {
	Kube       kubernetes.Interface
	Challenges Challenges
	HTTP       *http.Client // or nil for http.DefaultClient
	Log        *slog.Logger // or nil for slog.Default()
}

const (
	// managedBy marks the Secrets that this package may write to.
	managedBy      = "app.kubernetes.io/managed-by"
	manager        = "gantry-acme"
	directoryNote  = "gantry.dev/acme-directory"
	firstRetry     = time.Minute
	lastRetry      = 6 * time.Hour
	patience       = 5 * time.Minute // for one certificate
	longestRest    = 12 * time.Hour
	renewRemaining = 3 // renewed when a third of the lifetime is left
)

// Manager is one running manager.
type Manager struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu     sync.Mutex
	wishes map[types.NamespacedName]Wish    // guarded by mu
	states map[types.NamespacedName]attempt // guarded by mu
}

// attempt is what became of a wish.
type attempt struct {
	wish  Wish
	err   error
	after time.Time     // not again before
	delay time.Duration // that was waited last
}

// New returns a manager that does nothing until Run.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Manager{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1),
		wishes: map[types.NamespacedName]Wish{}, states: map[types.NamespacedName]attempt{},
	}
}

// Want replaces the wishes.
func (m *Manager) Want(wishes []Wish) {
	wanted := map[types.NamespacedName]Wish{}
	for _, w := range wishes {
		wanted[w.Secret] = w
	}
	m.mu.Lock()
	same := maps.EqualFunc(m.wishes, wanted, Wish.equal)
	m.wishes = wanted
	m.mu.Unlock()
	if !same {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (w Wish) equal(o Wish) bool {
	return w.Secret == o.Secret && w.Directory == o.Directory && w.Email == o.Email && slices.Equal(w.Hosts, o.Hosts)
}

// State says in a sentence how the certificate of a Secret is doing; "" if
// nobody wants one or all is well.
func (m *Manager) State(secret types.NamespacedName) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	wish, wanted := m.wishes[secret]
	state, tried := m.states[secret]
	switch {
	case !wanted:
		return ""
	case !tried || !state.wish.equal(wish):
		return "it is being requested from " + wish.Directory
	case state.err != nil:
		return fmt.Sprintf("%v; tried again after %s", state.err, state.after.UTC().Format(time.RFC3339))
	}
	return ""
}

// Run gets and renews certificates until ctx ends. changed is called whenever
// State has something new to say.
func (m *Manager) Run(ctx context.Context, changed func()) {
	for {
		rest := m.round(ctx, changed)
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-time.After(rest):
		}
	}
}

// round looks after all wishes once and returns when to do so again.
func (m *Manager) round(ctx context.Context, changed func()) time.Duration {
	m.mu.Lock()
	wishes := slices.Collect(maps.Values(m.wishes))
	maps.DeleteFunc(m.states, func(n types.NamespacedName, _ attempt) bool { _, wanted := m.wishes[n]; return !wanted })
	m.mu.Unlock()
	next := time.Now().Add(longestRest)
	for _, w := range wishes {
		if ctx.Err() != nil {
			break
		}
		due := m.lookAfter(ctx, w, changed)
		if due.Before(next) {
			next = due
		}
	}
	return max(time.Until(next), time.Second)
}

// lookAfter makes a wish come true, if that is due, and returns when to look again.
func (m *Manager) lookAfter(ctx context.Context, w Wish, changed func()) time.Time {
	m.mu.Lock()
	last, tried := m.states[w.Secret]
	m.mu.Unlock()
	if tried && last.wish.equal(w) && last.err != nil && time.Now().Before(last.after) {
		return last.after
	}
	due, err := m.fulfil(ctx, w)
	if apierrors.IsForbidden(err) {
		err = fmt.Errorf("%w: allow it with `kubectl -n %s create rolebinding gateway-certificates --clusterrole=system:gantry:gateway:certificates --user=system:gantry:gateway`", err, w.Secret.Namespace)
	}
	now := attempt{wish: w, err: err}
	if err != nil {
		now.delay = firstRetry
		if tried && last.wish.equal(w) && last.err != nil {
			now.delay = min(2*last.delay, lastRetry)
		}
		now.after = time.Now().Add(now.delay)
		due = now.after
		m.log.Warn("get certificate", "secret", w.Secret, "hosts", w.Hosts, "error", err)
	}
	m.mu.Lock()
	m.states[w.Secret] = now
	m.mu.Unlock()
	changed()
	return due
}

// fulfil gets a certificate unless there is one that will do, and returns when
// it has to be renewed.
func (m *Manager) fulfil(ctx context.Context, w Wish) (time.Time, error) {
	secrets := m.cfg.Kube.CoreV1().Secrets(w.Secret.Namespace)
	present, err := secrets.Get(ctx, w.Secret.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		present = nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read Secret %s: %w", w.Secret, err)
	case present.Labels[managedBy] != manager:
		return time.Time{}, fmt.Errorf("Secret %s exists and is not ours: delete it, or name another one", w.Secret)
	default:
		if renew, ok := renewal(present, w); ok && time.Now().Before(renew) {
			return renew, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pair, err := m.obtain(ctx, w)
	if err != nil {
		return time.Time{}, fmt.Errorf("certificate for %v from %s: %w", w.Hosts, w.Directory, err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: w.Secret.Name, Namespace: w.Secret.Namespace,
			Labels:      map[string]string{managedBy: manager},
			Annotations: map[string]string{directoryNote: w.Directory},
		},
		Type: corev1.SecretTypeTLS,
		Data: pair,
	}
	if present == nil {
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		secret.ResourceVersion = present.ResourceVersion
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("write Secret %s: %w", w.Secret, err)
	}
	m.log.Info("got certificate", "secret", w.Secret, "hosts", w.Hosts, "from", w.Directory)
	renew, _ := renewal(secret, w)
	return renew, nil
}

// renewal says when the certificate of a Secret has to be renewed; not ok if it
// is not what is wanted.
func renewal(s *corev1.Secret, w Wish) (time.Time, bool) {
	if s.Annotations[directoryNote] != w.Directory {
		return time.Time{}, false
	}
	leaf, err := firstCertificate(s.Data[corev1.TLSCertKey])
	if err != nil {
		return time.Time{}, false
	}
	for _, host := range w.Hosts {
		if leaf.VerifyHostname(host) != nil {
			return time.Time{}, false
		}
	}
	return renewAt(leaf), true
}

func renewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / renewRemaining)
}
