package attest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/hint"
)

// ErrPrivate is returned when a file that should hold a public key holds a private one.
var ErrPrivate = errors.New("it is a private key")

const secretScheme = "k8s://"

// Keyring finds keys by the references that cosign uses:
//
//	FILE                      a PEM file: an encrypted private key or a public key
//	k8s://NAMESPACE/SECRET    a Secret with cosign.key, cosign.password and cosign.pub
//	hashivault://NAME         a key of Vault's transit engine, which never leaves it;
//	                          vault://NAME is the same
//	NAME://...                a key of another service, by sigstore's plugin for it
//
// Everything else (pkcs11:, http) is refused with a hint.
type Keyring struct {
	// Kube connects to the cluster of k8s:// references; nil refuses them.
	Kube func() (kubernetes.Interface, error)
	// Password asks for that of a private key in a file; nil takes it for empty.
	Password func(file string) ([]byte, error)
	// Getenv looks up VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE and
	// TRANSIT_SECRET_ENGINE_PATH; nil is os.Getenv. What it lacks may be in the Secret [VaultSecret].
	Getenv func(string) string
	// HTTP reaches Vault; nil is http.DefaultClient.
	HTTP *http.Client
	// Plugins allows to run sigstore's plugins, programs on the PATH: for commands, whose
	// user chooses the reference.
	Plugins bool
}

// Signer returns the private key that a reference names.
func (r Keyring) Signer(ctx context.Context, ref string) (*Signer, error) {
	kind, rest, err := r.parse(ref)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "k8s":
		secret, err := r.secret(ctx, rest)
		if err != nil {
			return nil, err
		}
		signer, err := ParsePrivateKey(secret.Data[privateEntry], secret.Data[passwordEntry])
		return signer, keyError(ref, err)
	case "vault":
		v, err := r.vault(ctx, rest)
		if err != nil {
			return nil, keyError(ref, err)
		}
		signer, err := newSigner(v)
		return signer, keyError(ref, err)
	case "plugin":
		s, err := r.plugin(ctx, rest, ref)
		if err != nil {
			return nil, keyError(ref, err)
		}
		signer, err := newSigner(s)
		return signer, keyError(ref, err)
	}
	text, err := os.ReadFile(rest)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("read private key: %w", err), "make one with `gantry keys generate`")
	}
	var password []byte
	if r.Password != nil {
		if password, err = r.Password(rest); err != nil {
			return nil, keyError(ref, err)
		}
	}
	signer, err := ParsePrivateKey(text, password)
	if errors.Is(err, ErrPassword) {
		err = hint.Wrap(err, "set COSIGN_PASSWORD to the password of %s", rest)
	}
	return signer, keyError(ref, err)
}

// PublicKey returns the public key that a reference names. For a file that is a public
// key; of a private key in a file only its owner can tell.
func (r Keyring) PublicKey(ctx context.Context, ref string) (*PublicKey, error) {
	kind, rest, err := r.parse(ref)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "k8s":
		secret, err := r.secret(ctx, rest)
		if err != nil {
			return nil, err
		}
		key, err := ParsePublicKey(secret.Data[publicEntry])
		return key, keyError(ref, err)
	case "vault":
		v, err := r.vault(ctx, rest)
		if err != nil {
			return nil, keyError(ref, err)
		}
		key, err := newPublicKey(v.public)
		return key, keyError(ref, err)
	case "plugin":
		s, err := r.plugin(ctx, rest, ref)
		if err != nil {
			return nil, keyError(ref, err)
		}
		public, err := s.PublicKey()
		if err != nil {
			return nil, keyError(ref, err)
		}
		key, err := newPublicKey(public)
		return key, keyError(ref, err)
	}
	text, err := os.ReadFile(rest)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	if strings.Contains(string(text), "PRIVATE KEY") {
		return nil, hint.Wrap(keyError(ref, ErrPrivate), "verifying needs the public one: name the file cosign.pub that was made with it")
	}
	key, err := ParsePublicKey(text)
	return key, keyError(ref, err)
}

func keyError(ref string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("key %s: %w", ref, err)
}

// parse tells what kind of reference it is.
func (r Keyring) parse(ref string) (kind, rest string, err error) {
	scheme, rest, found := strings.Cut(ref, "://")
	switch {
	case !found && strings.HasPrefix(ref, "pkcs11:"):
		scheme = "pkcs11"
	case !found:
		return "file", ref, nil
	case scheme == "k8s":
		return "k8s", rest, nil
	case scheme == "hashivault" || scheme == "vault":
		return "vault", rest, nil
	}
	if !found || scheme == "http" || scheme == "https" {
		return "", "", unsupported(ref, scheme)
	}
	return "plugin", scheme, nil
}

func (r Keyring) secret(ctx context.Context, ref string) (*corev1.Secret, error) {
	namespace, name, ok := strings.Cut(ref, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, hint.Wrap(fmt.Errorf("key %s%s is not complete", secretScheme, ref), "write k8s://NAMESPACE/SECRET")
	}
	if r.Kube == nil {
		return nil, fmt.Errorf("key %s%s: there is no cluster to ask", secretScheme, ref)
	}
	kube, err := r.Kube()
	if err != nil {
		return nil, err
	}
	if secretScheme+ref == InstanceKeyRef {
		return instanceSecret(ctx, kube) // made on first need
	}
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("key %s%s: %w", secretScheme, ref, err), "make it with `gantry keys generate k8s://%s`", ref)
	}
	return secret, nil
}
