package trust

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/attest"
)

// registries reads evidence where the images are. It is safe for concurrent use.
type registries struct {
	kube kubernetes.Interface

	mu    sync.Mutex // guards following
	names map[string]knownName
}

// knownName is what an image's name stood for when it was looked up.
type knownName struct {
	digest name.Digest
	at     time.Time
}

// options log in with the Secret trust-registry-login, if there is one.
func (r *registries) options(ctx context.Context) ([]remote.Option, error) {
	var keychain authn.Keychain = authn.DefaultKeychain
	login, err := r.kube.CoreV1().Secrets(Namespace).Get(ctx, registryLogin, metav1.GetOptions{})
	switch {
	case err == nil:
		file, err := config.LoadFromReader(bytes.NewReader(login.Data[corev1.DockerConfigJsonKey]))
		if err != nil {
			return nil, fmt.Errorf("read secret %s/%s: it is not a docker configuration", Namespace, registryLogin)
		}
		keychain = logins{file}
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read secret %s/%s: %w", Namespace, registryLogin, err)
	}
	return []remote.Option{
		remote.WithAuthFromKeychain(keychain), remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithRetryStatusCodes(http.StatusBadGateway, http.StatusServiceUnavailable),
		remote.WithRetryBackoff(remote.Backoff{Duration: 100 * time.Millisecond, Factor: 3, Steps: 2}),
	}, nil
}

// logins are those of a docker configuration.
type logins struct{ file *configfile.ConfigFile }

// Resolve implements authn.Keychain.
func (l logins) Resolve(target authn.Resource) (authn.Authenticator, error) {
	login, err := l.file.GetAuthConfig(target.RegistryStr())
	if err != nil || login.Username == "" && login.IdentityToken == "" && login.RegistryToken == "" {
		return authn.Anonymous, err
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: login.Username, Password: login.Password, IdentityToken: login.IdentityToken, RegistryToken: login.RegistryToken,
	}), nil
}

// resolve finds the digest that a name stands for, or stood for within a period. While the
// registry does not answer, what it last said counts: workloads go on growing.
func (r *registries) resolve(ctx context.Context, image string, period time.Duration) (name.Digest, error) {
	r.mu.Lock()
	known, ok := r.names[image]
	r.mu.Unlock()
	if ok && time.Since(known.at) < period {
		return known.digest, nil
	}
	opts, err := r.options(ctx)
	if err != nil {
		return name.Digest{}, err
	}
	digest, err := attest.Resolve(ctx, image, opts...)
	if err != nil && ok && attest.Unanswered(err) {
		return known.digest, nil
	}
	if err != nil {
		return digest, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil || len(r.names) >= remembered {
		r.names = map[string]knownName{}
	}
	r.names[image] = knownName{digest, time.Now()}
	return digest, nil
}

// claims implements evidenceSource.
func (r *registries) claims(ctx context.Context, image name.Digest, predicateTypes []string) (*attest.Evidence, error) {
	opts, err := r.options(ctx)
	if err != nil {
		return nil, err
	}
	return attest.Fetch(ctx, image, predicateTypes, opts...)
}

// layers implements evidenceSource.
func (r *registries) layers(ctx context.Context, image name.Digest) ([]string, error) {
	opts, err := r.options(ctx)
	if err != nil {
		return nil, err
	}
	of, err := remote.Image(image, opts...)
	if err != nil {
		return nil, fmt.Errorf("read the layers of %s: %w", image, err)
	}
	configuration, err := of.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the layers of %s: %w", image, err)
	}
	var layers []string
	for _, l := range configuration.RootFS.DiffIDs {
		layers = append(layers, l.String())
	}
	return layers, nil
}

// base implements evidenceSource.
func (r *registries) base(ctx context.Context, image string) (name.Digest, error) {
	return r.resolve(ctx, image, basePeriod)
}

// keys implements keySource with Secrets.
type keys struct{ kube kubernetes.Interface }

func (k keys) instance(ctx context.Context) (*attest.PublicKey, error) {
	return attest.InstancePublicKey(ctx, k.kube)
}

func (k keys) secret(ctx context.Context, secret string) (*attest.PublicKey, error) {
	ring := attest.Keyring{Kube: func() (kubernetes.Interface, error) { return k.kube, nil }}
	return ring.PublicKey(ctx, "k8s://"+Namespace+"/"+secret)
}
