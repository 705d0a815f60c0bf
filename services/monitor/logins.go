package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/config"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
)

// login is how an endpoint of a monitor is asked, with the fields and the meaning that the Prometheus operator
// gives them: what is secret is in Secrets and ConfigMaps of the monitor's own namespace.
type login struct {
	TLS               *tlsFields `json:"tlsConfig"`
	BearerTokenFile   string     `json:"bearerTokenFile"`
	BearerTokenSecret *keyOf     `json:"bearerTokenSecret"`
	BasicAuth         *struct {
		Username keyOf `json:"username"`
		Password keyOf `json:"password"`
	} `json:"basicAuth"`
	Authorization *struct {
		Type            string `json:"type"`
		Credentials     *keyOf `json:"credentials"`
		CredentialsFile string `json:"credentialsFile"`
	} `json:"authorization"`
	OAuth2 *struct {
		ClientID       keyOfAny          `json:"clientId"`
		ClientSecret   keyOf             `json:"clientSecret"`
		TokenURL       string            `json:"tokenUrl"`
		Scopes         []string          `json:"scopes"`
		EndpointParams map[string]string `json:"endpointParams"`
		TLS            *tlsFields        `json:"tlsConfig"`
		proxyFields    `json:",inline"`
	} `json:"oauth2"`
	proxyFields `json:",inline"`
}

type (
	keyOf struct {
		Name string `json:"name"`
		Key  string `json:"key"`
	}
	// keyOfAny is a key of a Secret or of a ConfigMap.
	keyOfAny struct {
		Secret    *keyOf `json:"secret"`
		ConfigMap *keyOf `json:"configMap"`
	}
	tlsFields struct {
		CA                 keyOfAny `json:"ca"`
		Cert               keyOfAny `json:"cert"`
		KeySecret          *keyOf   `json:"keySecret"`
		ServerName         string   `json:"serverName"`
		InsecureSkipVerify bool     `json:"insecureSkipVerify"`
		MinVersion         string   `json:"minVersion"`
		MaxVersion         string   `json:"maxVersion"`
		CAFile             string   `json:"caFile"`
		CertFile           string   `json:"certFile"`
		KeyFile            string   `json:"keyFile"`
	}
	proxyFields struct {
		ProxyURL             string `json:"proxyUrl"`
		NoProxy              string `json:"noProxy"`
		ProxyFromEnvironment bool   `json:"proxyFromEnvironment"`
		ProxyConnectHeader   any    `json:"proxyConnectHeader"`
	}
)

// unkept names what is asked for and not given: what would let whoever writes a monitor use the service's own
// files and environment.
func (l *login) unkept() error {
	files := map[string]string{"bearerTokenFile": l.BearerTokenFile}
	tls := []*tlsFields{l.TLS}
	proxies := []proxyFields{l.proxyFields}
	if l.Authorization != nil {
		files["authorization.credentialsFile"] = l.Authorization.CredentialsFile
		if strings.EqualFold(strings.TrimSpace(l.Authorization.Type), "basic") {
			return errors.New("authorization.type cannot be Basic: use basicAuth")
		}
	}
	if l.OAuth2 != nil {
		tls, proxies = append(tls, l.OAuth2.TLS), append(proxies, l.OAuth2.proxyFields)
	}
	for _, t := range tls {
		if t != nil {
			files["tlsConfig.caFile"] = cmp.Or(files["tlsConfig.caFile"], t.CAFile)
			files["tlsConfig.certFile"] = cmp.Or(files["tlsConfig.certFile"], t.CertFile)
			files["tlsConfig.keyFile"] = cmp.Or(files["tlsConfig.keyFile"], t.KeyFile)
		}
	}
	for field, file := range files {
		if file != "" {
			return fmt.Errorf("%s names a file of the machine, which monitors cannot read: use a Secret", field)
		}
	}
	for _, p := range proxies {
		if p.ProxyFromEnvironment || p.ProxyConnectHeader != nil {
			return errors.New("proxyFromEnvironment and proxyConnectHeader are not supported: use proxyUrl and noProxy")
		}
	}
	return nil
}

// into adds the login to a job. What is secret is referred to, so that it is in no configuration
// and a changed Secret is used at once.
func (l *login) into(ctx context.Context, j job, namespace string, vault *vault) error {
	if err := l.unkept(); err != nil {
		return err
	}
	if l.BearerTokenSecret != nil && l.BearerTokenSecret.Key != "" {
		j["authorization"] = job{"credentials_ref": l.BearerTokenSecret.ref("secret", namespace)}
	}
	if l.BasicAuth != nil {
		j["basic_auth"] = job{"username_ref": l.BasicAuth.Username.ref("secret", namespace), "password_ref": l.BasicAuth.Password.ref("secret", namespace)}
	}
	if a := l.Authorization; a != nil {
		to := job{"type": cmp.Or(strings.TrimSpace(a.Type), "Bearer")}
		if a.Credentials != nil && a.Credentials.Name != "" {
			to["credentials_ref"] = a.Credentials.ref("secret", namespace)
		}
		j["authorization"] = to
	}
	if o := l.OAuth2; o != nil {
		id, err := vault.Fetch(ctx, o.ClientID.ref(namespace))
		if err != nil {
			return fmt.Errorf("oauth2.clientId: %w", err)
		}
		to := job{"client_id": id, "client_secret_ref": o.ClientSecret.ref("secret", namespace), "token_url": o.TokenURL}
		if len(o.Scopes) > 0 {
			to["scopes"] = o.Scopes
		}
		if len(o.EndpointParams) > 0 {
			to["endpoint_params"] = o.EndpointParams
		}
		o.TLS.into(to, namespace)
		o.proxyFields.into(to)
		j["oauth2"] = to
	}
	l.TLS.into(j, namespace)
	l.proxyFields.into(j)
	return nil
}

func (t *tlsFields) into(j job, namespace string) {
	if t == nil {
		return
	}
	to := job{"insecure_skip_verify": t.InsecureSkipVerify}
	for field, value := range map[string]string{
		"ca_ref": t.CA.ref(namespace), "cert_ref": t.Cert.ref(namespace), "key_ref": t.KeySecret.ref("secret", namespace),
		"server_name": t.ServerName, "min_version": t.MinVersion, "max_version": t.MaxVersion,
	} {
		if value != "" {
			to[field] = value
		}
	}
	j["tls_config"] = to
}

func (p *proxyFields) into(j job) {
	if p.ProxyURL != "" {
		j["proxy_url"] = p.ProxyURL
	}
	if p.NoProxy != "" {
		j["no_proxy"] = p.NoProxy
	}
}

// ref names a key to a vault, or is "" for none.
func (k *keyOf) ref(kind, namespace string) string {
	if k == nil {
		return ""
	}
	return strings.Join([]string{kind, namespace, k.Name, k.Key}, "/")
}

func (k *keyOfAny) ref(namespace string) string {
	if k.Secret != nil {
		return k.Secret.ref("secret", namespace)
	}
	return k.ConfigMap.ref("configmap", namespace)
}

// fresh is how long what was read from a Secret or a ConfigMap is used.
const fresh = 30 * time.Second

// vault reads what monitors refer to. It implements config.SecretManager.
type vault struct {
	client clientset.Interface

	mu   sync.Mutex           // guards following
	read map[string]container // by kind, namespace and name
}

// container is a Secret or a ConfigMap, or why it could not be read.
type container struct {
	at     time.Time
	values map[string]string
	err    error
}

var _ config.SecretManager = (*vault)(nil)

// Fetch reads the value of a reference. It asks the API at most once in a while for each object.
func (v *vault) Fetch(ctx context.Context, ref string) (string, error) {
	parts := strings.Split(ref, "/")
	if len(parts) != 4 || parts[2] == "" || parts[3] == "" {
		return "", errors.New("the name or the key of a Secret is missing")
	}
	kind, namespace, name, key := parts[0], parts[1], parts[2], parts[3]
	c := v.get(ctx, kind, namespace, name)
	if c.err != nil {
		return "", c.err
	}
	value, here := c.values[key]
	if !here {
		return "", fmt.Errorf("%s %s/%s has no key %q", kind, namespace, name, key)
	}
	return value, nil
}

func (v *vault) get(ctx context.Context, kind, namespace, name string) container {
	at := strings.Join([]string{kind, namespace, name}, "/")
	v.mu.Lock()
	defer v.mu.Unlock()
	if c, known := v.read[at]; known && time.Since(c.at) < fresh {
		return c
	}
	c := container{at: time.Now(), values: map[string]string{}}
	if kind == "secret" {
		secret, err := v.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if c.err = err; err == nil {
			for key, value := range secret.Data {
				c.values[key] = string(value)
			}
		}
	} else {
		m, err := v.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if c.err = err; err == nil {
			c.values = m.Data
		}
	}
	switch {
	case apierrors.IsNotFound(c.err):
		c.err = fmt.Errorf("there is no %s %s/%s", kind, namespace, name)
	case c.err != nil:
		return container{err: fmt.Errorf("read %s %s/%s: %w", kind, namespace, name, c.err)}
	}
	v.forget()
	v.read[at] = c
	return c
}

// forget drops what nobody has asked for in a while. The caller holds mu.
func (v *vault) forget() {
	for at, c := range v.read {
		if time.Since(c.at) > 2*fresh {
			delete(v.read, at)
		}
	}
}
