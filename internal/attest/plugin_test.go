package attest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"

	"github.com/gantryhq/gantry/internal/hint"
)

// pluginProgram is what the test program is called when it is a plugin for testkms://.
const pluginProgram = "sigstore-kms-testkms"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != pluginProgram {
		os.Exit(m.Run())
	}
	if err := servePlugin(); err != nil {
		_ = handler.WriteErrorResponse(os.Stdout, err)
	}
}

// servePlugin answers one call, with the key that is in the environment.
func servePlugin() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	if args.InitOptions.KeyResourceID != "images" {
		return errors.New("there is no key " + args.InitOptions.KeyResourceID)
	}
	der, err := hex.DecodeString(os.Getenv("TESTKMS_KEY"))
	if err != nil {
		return err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return err
	}
	s, err := signature.LoadECDSASignerVerifier(key, args.InitOptions.HashFunc)
	if err != nil {
		return err
	}
	_, _ = handler.Dispatch(os.Stdout, os.Stdin, args, pluginKey{s}) // writes its errors itself
	return nil
}

type pluginKey struct{ signature.SignerVerifier }

func (pluginKey) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("not here")
}
func (pluginKey) SupportedAlgorithms() []string { return nil }
func (pluginKey) DefaultAlgorithm() string      { return "" }
func (pluginKey) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("not here")
}

func TestAKeyManagementServiceSignsThroughItsPlugin(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, pluginProgram))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	ring := Keyring{Plugins: true}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("TESTKMS_KEY", hex.EncodeToString(der))
		signer, err := ring.Signer(t.Context(), "testkms://images")
		if err != nil {
			t.Fatal(err)
		}
		public, err := ring.PublicKey(t.Context(), "testkms://images")
		if err != nil || public.ID != signer.Public.ID {
			t.Fatalf("the plugin's public key: %v", err)
		}
		sig, err := signer.signer.SignMessage(strings.NewReader("an image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := public.Verify([]byte("an image"), sig); err != nil {
			t.Errorf("%s: the signature of the plugin: %v", curve.Params().Name, err)
		}
		if err := public.Verify([]byte("another image"), sig); err == nil {
			t.Errorf("%s: the signature is good for everything", curve.Params().Name)
		}
	}
	if _, err := ring.Signer(t.Context(), "testkms://absent"); err == nil || !strings.Contains(err.Error(), "there is no key absent") {
		t.Errorf("a key that the service does not have: %v", err)
	}
	if _, err := ring.Signer(t.Context(), "awskms:///alias/images"); err == nil || !strings.Contains(err.Error(), "sigstore-kms-awskms is not on the PATH") || !strings.Contains(hint.Of(err), "cosign public-key") {
		t.Errorf("a plugin that is not installed: %v", err)
	}
	for _, ring := range []Keyring{{}, {Plugins: true}} {
		ref := "testkms://images"
		if ring.Plugins {
			ref = "../../" + dir + "/x://images"
		}
		if _, err := ring.Signer(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "not supported here") {
			t.Errorf("%s ran a plugin: %v", ref, err)
		}
	}
}
