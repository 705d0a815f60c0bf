package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/internal/hint"
)

// newVault answers as the transit engine's documentation says, for one key.
func newVault(t *testing.T, kind string, key crypto.Signer) Keyring {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	answer := func(w http.ResponseWriter, data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/transit/keys/images", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"type": kind, "latest_version": 3, "keys": map[string]any{"1": map[string]any{"public_key": "old"}, "3": map[string]any{"public_key": public}}})
	})
	mux.HandleFunc("POST /v1/transit/sign/images", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Input         string
			Prehashed     bool
			HashAlgorithm string `json:"hash_algorithm"`
			Marshaling    string `json:"marshaling_algorithm"`
			Signature     string `json:"signature_algorithm"`
			KeyVersion    int    `json:"key_version"`
		}
		if json.NewDecoder(r.Body).Decode(&ask) != nil || !ask.Prehashed || ask.HashAlgorithm != "sha2-256" || ask.KeyVersion != 3 {
			http.Error(w, `{"errors":["bad request"]}`, http.StatusBadRequest)
			return
		}
		// The documentation's defaults are asn1 and pss.
		if _, isRSA := key.(*rsa.PrivateKey); isRSA && ask.Signature != "pkcs1v15" {
			http.Error(w, `{"errors":["the test's Vault has no pss"]}`, http.StatusBadRequest)
			return
		}
		hash, _ := base64.StdEncoding.DecodeString(ask.Input)
		sig, err := key.Sign(rand.Reader, hash, crypto.SHA256)
		if err != nil {
			http.Error(w, `{"errors":["`+err.Error()+`"]}`, http.StatusBadRequest)
			return
		}
		answer(w, map[string]any{"signature": "vault:v3:" + base64.StdEncoding.EncodeToString(sig)})
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "hvs.token" {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return Keyring{Getenv: func(name string) string {
		return map[string]string{"VAULT_ADDR": server.URL, "VAULT_TOKEN": "hvs.token"}[name]
	}}
}

func TestKeysOfVaultSign(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for kind, key := range map[string]crypto.Signer{"ecdsa-p256": ec, "rsa-2048": rs} {
		ring := newVault(t, kind, key)
		signer, err := ring.Signer(t.Context(), "hashivault://images")
		if err != nil {
			t.Fatal(err)
		}
		public, err := ring.PublicKey(t.Context(), "vault://images")
		if err != nil {
			t.Fatal(err)
		}
		for _, layout := range []Layout{Referrer, Tag} {
			image := newRegistry(t, true)
			if err := Sign(t.Context(), image, signer, layout); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(t.Context(), image, SignPredicate, []*PublicKey{public}); err != nil {
				t.Errorf("%s, %s: %v", kind, layout, err)
			}
		}
	}
}

func TestVaultsTokenMayBeInASecret(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := newVault(t, "ecdsa-p256", ec)
	known := ring.Getenv
	ring.Getenv = func(string) string { return "" }
	ring.Kube = func() (kubernetes.Interface, error) {
		return fake.NewClientset(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "gantry-system", Name: VaultSecret},
			Data:       map[string][]byte{"VAULT_ADDR": []byte(known("VAULT_ADDR")), "VAULT_TOKEN": []byte(known("VAULT_TOKEN") + "\n")},
		}), nil
	}
	if _, err := ring.Signer(t.Context(), "hashivault://images"); err != nil {
		t.Error(err)
	}
}

func TestVaultsRefusalsSayWhatToDo(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := newVault(t, "aes256-gcm96", ec)
	if _, err := ring.Signer(t.Context(), "vault://images"); err == nil || !strings.Contains(hint.Of(err), "type=ecdsa-p256") {
		t.Errorf("a key that cannot sign: %v", err)
	}
	if _, err := ring.Signer(t.Context(), "vault://absent"); err == nil || !strings.Contains(hint.Of(err), "vault write") {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := (Keyring{Getenv: func(string) string { return "" }}).Signer(t.Context(), "vault://images"); err == nil || !strings.Contains(hint.Of(err), "VAULT_ADDR") {
		t.Errorf("no Vault: %v", err)
	}
	known := ring.Getenv
	ring.Getenv = func(name string) string { return strings.Replace(known(name), "hvs.token", "hvs.stale", 1) }
	if _, err := ring.Signer(t.Context(), "vault://images"); err == nil || !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error()+hint.Of(err), "hvs.") {
		t.Errorf("a token without rights: %v", err)
	}
}

func TestReferencesThatDoNotWorkSaySo(t *testing.T) {
	dir := t.TempDir()
	private, public, err := GenerateKey([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cosign.key"), private)
	write(t, filepath.Join(dir, "cosign.pub"), public)
	ring := Keyring{Kube: func() (kubernetes.Interface, error) { return fake.NewClientset(), nil }}
	for ref, remedy := range map[string]string{
		"awskms:///alias/images":         "cosign public-key", // without plugins
		"pkcs11:token=x":                 "k8s://NAMESPACE/SECRET",
		"k8s://only-one-part":            "k8s://NAMESPACE/SECRET",
		"k8s://team/absent":              "gantry keys generate k8s://team/absent",
		filepath.Join(dir, "absent.key"): "gantry keys generate",
		filepath.Join(dir, "cosign.key"): "COSIGN_PASSWORD", // the password is wrong
	} {
		if _, err := ring.Signer(t.Context(), ref); err == nil || !strings.Contains(hint.Of(err), remedy) {
			t.Errorf("%s: %v, hint %q", ref, err, hint.Of(err))
		}
	}
	if _, err := ring.PublicKey(t.Context(), filepath.Join(dir, "cosign.key")); err == nil || !strings.Contains(hint.Of(err), "cosign.pub") {
		t.Errorf("a private key to verify with: %v", err)
	}
}

func TestTheInstancesKeyIsMadeOnce(t *testing.T) {
	kube := fake.NewClientset()
	public, err := InstancePublicKey(t.Context(), kube)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := InstanceSigner(t.Context(), kube)
	if err != nil {
		t.Fatal(err)
	}
	if signer.Public.ID != public.ID {
		t.Error("the key was made twice")
	}
	ring := Keyring{Kube: func() (kubernetes.Interface, error) { return kube, nil }}
	named, err := ring.Signer(t.Context(), InstanceKeyRef)
	if err != nil || named.Public.ID != public.ID {
		t.Errorf("%s names another key: %v", InstanceKeyRef, err)
	}
	// cosign itself reads it from the Secret's entries.
	secret, err := instanceSecret(t.Context(), kube)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("../../bin/cosign"); err == nil {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "cosign.key"), secret.Data["cosign.key"])
		out, err := cosignWith(t, dir, string(secret.Data["cosign.password"]), "public-key", "--key", "cosign.key")
		if err != nil || !strings.Contains(out, string(secret.Data["cosign.pub"])) {
			t.Errorf("cosign reads another key: %v: %s", err, out)
		}
	}
}
