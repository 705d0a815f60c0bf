package attest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/platform"
)

// InstanceKey is the Secret with the installation's own key, in gantry-system.
const InstanceKey = "signing-key"

// InstanceKeyRef names that key as `cosign verify --key` and `gantry verify --key` do.
const InstanceKeyRef = secretScheme + platform.SystemNamespace + "/" + InstanceKey

// The entries of a Secret that holds a key pair, as cosign names them.
const (
	privateEntry, passwordEntry, publicEntry = "cosign.key", "cosign.password", "cosign.pub"
)

// InstanceSigner returns the installation's own key and makes it when it is not there
// yet. Reading it takes about 50 ms of CPU: keep the Signer.
func InstanceSigner(ctx context.Context, kube kubernetes.Interface) (*Signer, error) {
	secret, err := instanceSecret(ctx, kube)
	if err != nil {
		return nil, err
	}
	signer, err := ParsePrivateKey(secret.Data[privateEntry], secret.Data[passwordEntry])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", platform.SystemNamespace, InstanceKey, err)
	}
	return signer, nil
}

// InstancePublicKey returns the public half of the installation's own key, which it makes
// when it is not there yet. It costs one read.
func InstancePublicKey(ctx context.Context, kube kubernetes.Interface) (*PublicKey, error) {
	secret, err := instanceSecret(ctx, kube)
	if err != nil {
		return nil, err
	}
	key, err := ParsePublicKey(secret.Data[publicEntry])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", platform.SystemNamespace, InstanceKey, err)
	}
	return key, nil
}

func instanceSecret(ctx context.Context, kube kubernetes.Interface) (*corev1.Secret, error) {
	secret, err := kube.CoreV1().Secrets(platform.SystemNamespace).Get(ctx, InstanceKey, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = makeInstanceKey(ctx, kube)
	}
	if err != nil {
		return nil, fmt.Errorf("read the installation's signing key: %w", err)
	}
	return secret, nil
}

// makeInstanceKey makes the key, or returns what another one made at the same time.
func makeInstanceKey(ctx context.Context, kube kubernetes.Interface) (*corev1.Secret, error) {
	password, err := RandomPassword()
	if err != nil {
		return nil, err
	}
	// The password is as long as a key and lies beside it: stretching it would only cost
	// everyone who signs time and memory, so it is the least that cosign accepts.
	private, public, err := generateKey(password, encrypted.Legacy)
	if err != nil {
		return nil, err
	}
	secret := KeySecret(platform.SystemNamespace, InstanceKey, private, public, password)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: platform.SystemNamespace}}
	if _, err := kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
		return nil, err
	}
	made, err := kube.CoreV1().Secrets(platform.SystemNamespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return kube.CoreV1().Secrets(platform.SystemNamespace).Get(ctx, InstanceKey, metav1.GetOptions{})
	}
	return made, err
}

// RandomPassword is one that nobody types, of 256 bits.
func RandomPassword() ([]byte, error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("make password: %w", err)
	}
	return []byte(base64.RawURLEncoding.EncodeToString(random)), nil
}

// KeySecret is the Secret that holds a key pair, as cosign lays it out.
func KeySecret(namespace, name string, private, public, password []byte) *corev1.Secret {
	immutable := true
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Immutable: &immutable, Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{privateEntry: private, passwordEntry: password, publicEntry: public},
	}
}
