package login

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/registry"
)

// An account is a Secret of this type in platform.SystemNamespace, named SecretPrefix
// and the account's name.
const (
	AccountType  corev1.SecretType = "gantry.dev/registry-account"
	SecretPrefix                   = "registry-account-"

	// HashKey holds the password's bcrypt hash, ExpiresKey the time (RFC 3339) from which
	// the account is not valid; without it the account does not expire.
	HashKey    = "password-hash"
	ExpiresKey = "expires"

	// AccountUser and an account's name are the user that roles are bound to; every
	// account is in AccountsGroup.
	AccountUser   = "gantry:registry:"
	AccountsGroup = "gantry:registry-accounts"
)

var accountName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckAccountName refuses what is no name of an account.
func CheckAccountName(name string) error {
	if !accountName.MatchString(name) {
		return fmt.Errorf("%q is not an account's name: use lower-case letters, digits and -", name)
	}
	return nil
}

// accounts checks passwords. Checking a hash takes long on purpose, so one that was right is
// remembered for as long as the Secret does not change.
type accounts struct {
	cluster kubernetes.Interface
	key     [32]byte
	slow    sync.Mutex // one hash at a time: guessing keeps at most one core busy
	nobody  []byte     // what is compared for a name that is not there

	mu    sync.Mutex
	right map[[32]byte]string // guarded by mu: to the Secret's version
}

// maxRemembered bounds accounts.right.
const maxRemembered = 1024

func newAccounts(cluster kubernetes.Interface) *accounts {
	a := &accounts{cluster: cluster, right: map[[32]byte]string{}}
	_, _ = rand.Read(a.key[:]) // never fails
	return a
}

// check returns the user that an account is. Which of name and password is wrong is not told.
func (a *accounts) check(ctx context.Context, name, password string) (u authenticationv1.UserInfo, err error) {
	wrong := fmt.Errorf("%w: no account %q with this password", registry.ErrUnauthenticated, name)
	if CheckAccountName(name) != nil {
		return u, wrong
	}
	secret, err := a.cluster.CoreV1().Secrets(platform.SystemNamespace).Get(ctx, SecretPrefix+name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && secret.Type != AccountType {
		_ = a.compare(a.dummy(), password) // takes as long as for one that is there
		return u, wrong
	}
	if err != nil {
		return u, fmt.Errorf("read account %s: %w", name, err)
	}
	if !a.matches(secret, name, password) {
		return u, wrong
	}
	if text := string(secret.Data[ExpiresKey]); text != "" {
		end, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return u, fmt.Errorf("account %s: its %s is not a time: %w", name, ExpiresKey, err)
		}
		if !time.Now().Before(end) {
			return u, fmt.Errorf("%w: account %q expired at %s", registry.ErrUnauthenticated, name, text)
		}
	}
	return authenticationv1.UserInfo{Username: AccountUser + name, UID: string(secret.UID), Groups: []string{AccountsGroup, "system:authenticated"}}, nil
}

func (a *accounts) matches(secret *corev1.Secret, name, password string) bool {
	mac := hmac.New(sha256.New, a.key[:])
	fmt.Fprintf(mac, "%d %s%s", len(name), name, password)
	key := [32]byte(mac.Sum(nil))
	version := string(secret.UID) + "/" + secret.ResourceVersion
	a.mu.Lock()
	known := a.right[key] == version
	a.mu.Unlock()
	if known {
		return true
	}
	if a.compare(secret.Data[HashKey], password) != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.right) >= maxRemembered {
		clear(a.right)
	}
	a.right[key] = version
	return true
}

func (a *accounts) compare(hash []byte, password string) error {
	a.slow.Lock()
	defer a.slow.Unlock()
	return bcrypt.CompareHashAndPassword(hash, []byte(password))
}

func (a *accounts) dummy() []byte {
	a.slow.Lock()
	defer a.slow.Unlock()
	if a.nobody == nil {
		a.nobody, _ = bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.DefaultCost)
	}
	return a.nobody
}

// NewAccount makes the Secret of an account with a password of its own, which is told
// once. A zero time does not expire.
func NewAccount(name string, expires time.Time) (secret *corev1.Secret, password string, err error) {
	if err := CheckAccountName(name); err != nil {
		return nil, "", err
	}
	password = rand.Text()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return nil, "", fmt.Errorf("make password: %w", err)
	}
	secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretPrefix + name, Namespace: platform.SystemNamespace, Labels: accountLabels(name)},
		Type:       AccountType,
		Data:       map[string][]byte{HashKey: hash},
	}
	if !expires.IsZero() {
		if !time.Now().Before(expires) {
			return nil, "", errors.New("the account would have expired already")
		}
		secret.Data[ExpiresKey] = []byte(expires.UTC().Format(time.RFC3339))
	}
	return secret, password, nil
}
