package attest

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/platform"
)

// vaultSigner signs with a key of Vault's transit secrets engine
// (https://developer.hashicorp.com/vault/api-docs/secret/transit): the private key never
// leaves Vault, which gets only the hash of what is signed.
type vaultSigner struct {
	keyring                   Keyring
	address, token, namespace string
	engine, name              string
	public                    crypto.PublicKey
	hash                      crypto.Hash
	version                   string // of the key, as in its signatures
}

// vault reads the public half of the newest version of a key.
func (r Keyring) vault(ctx context.Context, keyName string) (*vaultSigner, error) {
	getenv := r.vaultSettings(ctx)
	v := &vaultSigner{
		keyring: r, name: keyName, address: strings.TrimSuffix(getenv("VAULT_ADDR"), "/"),
		token: getenv("VAULT_TOKEN"), namespace: getenv("VAULT_NAMESPACE"), engine: getenv("TRANSIT_SECRET_ENGINE_PATH"),
	}
	if v.engine == "" {
		v.engine = "transit"
	}
	if v.address == "" || v.token == "" || keyName == "" || strings.Contains(keyName, "/") {
		return nil, hint.Wrap(fmt.Errorf("a key of Vault needs a name without slashes, and VAULT_ADDR and VAULT_TOKEN in the environment or in the Secret %s/%s", platform.SystemNamespace, VaultSecret),
			"VAULT_ADDR=https://vault.example.com:8200 VAULT_TOKEN=... and hashivault://NAME; another mount of the transit engine is TRANSIT_SECRET_ENGINE_PATH")
	}
	var key struct {
		Type          string `json:"type"`
		LatestVersion int    `json:"latest_version"`
		Keys          map[string]struct {
			PublicKey string `json:"public_key"`
		} `json:"keys"`
	}
	if err := v.call(ctx, http.MethodGet, "/keys/"+url.PathEscape(keyName), nil, &key); err != nil {
		return nil, err
	}
	v.version = strconv.Itoa(key.LatestVersion)
	switch key.Type {
	case "ecdsa-p256", "rsa-2048", "rsa-3072", "rsa-4096":
		v.hash = crypto.SHA256
	case "ecdsa-p384":
		v.hash = crypto.SHA384
	case "ecdsa-p521":
		v.hash = crypto.SHA512
	default:
		return nil, hint.Wrap(fmt.Errorf("Vault's key is of type %q, which cannot sign images", key.Type), "make one with: vault write -f %s/keys/%s type=ecdsa-p256", v.engine, keyName)
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(key.Keys[v.version].PublicKey))
	if err != nil {
		return nil, fmt.Errorf("read the public key that Vault answered: %w", err)
	}
	v.public = public
	return v, nil
}

// VaultSecret is a Secret of gantry-system whose entries count where the environment has no
// variable of their name.
const VaultSecret = "vault"

// vaultSettings looks up the variables that Vault's own command knows. A Secret that is not
// there, or not to be read, has none.
func (r Keyring) vaultSettings(ctx context.Context) func(string) string {
	getenv := r.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if r.Kube == nil || getenv("VAULT_ADDR") != "" && getenv("VAULT_TOKEN") != "" {
		return getenv
	}
	kube, err := r.Kube()
	if err != nil {
		return getenv
	}
	secret, err := kube.CoreV1().Secrets(platform.SystemNamespace).Get(ctx, VaultSecret, metav1.GetOptions{})
	if err != nil {
		return getenv
	}
	return func(name string) string { return cmp.Or(getenv(name), strings.TrimSpace(string(secret.Data[name]))) }
}

// PublicKey implements signature.Signer.
func (v *vaultSigner) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return v.public, nil
}

// SignMessage implements signature.Signer.
func (v *vaultSigner) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	ctx := context.Background()
	for _, o := range opts {
		o.ApplyContext(&ctx)
	}
	h := v.hash.New()
	if _, err := io.Copy(h, message); err != nil {
		return nil, err
	}
	version, _ := strconv.Atoi(v.version) // we formatted it
	ask := map[string]any{"input": base64.StdEncoding.EncodeToString(h.Sum(nil)), "prehashed": true, "key_version": version}
	switch v.public.(type) {
	case *ecdsa.PublicKey:
		ask["marshaling_algorithm"] = "asn1"
	case *rsa.PublicKey:
		ask["signature_algorithm"] = "pkcs1v15"
	}
	ask["hash_algorithm"] = map[crypto.Hash]string{crypto.SHA256: "sha2-256", crypto.SHA384: "sha2-384", crypto.SHA512: "sha2-512"}[v.hash]
	var answer struct {
		Signature string `json:"signature"`
	}
	if err := v.call(ctx, http.MethodPost, "/sign/"+url.PathEscape(v.name), ask, &answer); err != nil {
		return nil, err
	}
	encoded, ok := strings.CutPrefix(answer.Signature, "vault:v"+v.version+":")
	if !ok {
		return nil, fmt.Errorf("Vault answered no signature of version %s of the key", v.version)
	}
	return base64.StdEncoding.DecodeString(encoded)
}

// call makes a request to the transit engine. Its errors never hold the token.
func (v *vaultSigner) call(ctx context.Context, method, path string, ask, into any) error {
	var body io.Reader
	if ask != nil {
		text, err := json.Marshal(ask)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, v.address+"/v1/"+v.engine+path, body)
	if err != nil {
		return fmt.Errorf("ask Vault: %w", err)
	}
	r.Header.Set("X-Vault-Token", v.token)
	if v.namespace != "" {
		r.Header.Set("X-Vault-Namespace", v.namespace)
	}
	client := v.keyring.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask Vault: %w", err)
	}
	defer response.Body.Close()
	answer := io.LimitReader(response.Body, 1<<20)
	if response.StatusCode != http.StatusOK {
		var refused struct {
			Errors []string `json:"errors"`
		}
		_ = json.NewDecoder(answer).Decode(&refused) // without details the status must do
		err := fmt.Errorf("Vault answers %s %s", response.Status, strings.Join(refused.Errors, "; "))
		if response.StatusCode == http.StatusNotFound {
			return hint.Wrap(err, "make the key with: vault write -f %s/keys/%s type=ecdsa-p256", v.engine, v.name)
		}
		return hint.Wrap(err, "does the token's policy allow read on %[1]s/keys/%[2]s and update on %[1]s/sign/%[2]s?", v.engine, v.name)
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(answer).Decode(&envelope); err != nil {
		return fmt.Errorf("read Vault's answer: %w", err)
	}
	if err := json.Unmarshal(envelope.Data, into); err != nil {
		return fmt.Errorf("read Vault's answer: %w", err)
	}
	return nil
}

var _ signature.Signer = (*vaultSigner)(nil)
