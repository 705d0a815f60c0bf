package attest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os/exec"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"

	"github.com/gantryhq/gantry/internal/hint"
)

// plugin connects to a key of a key management service through sigstore's plugin for it: a
// program sigstore-kms-NAME for references NAME://..., which is asked for the public key and
// given what is to be signed
// (https://github.com/sigstore/sigstore/tree/main/pkg/signature/kms/cliplugin).
func (r Keyring) plugin(ctx context.Context, name, ref string) (signature.SignerVerifier, error) {
	if !r.Plugins || !isPluginName(name) {
		return nil, unsupported(ref, name)
	}
	load := func(hash crypto.Hash) (signature.SignerVerifier, error) {
		return cliplugin.LoadSignerVerifier(ctx, ref, hash)
	}
	s, err := load(crypto.SHA256)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, hint.Wrap(fmt.Errorf("the program %s%s is not on the PATH", cliplugin.PluginBinaryPrefix, name),
			"install sigstore's plugin for this service; or sign with cosign, and give the key's public half (cosign public-key --key %s) to verify or to a TrustPolicy", ref)
	}
	if err != nil {
		return nil, err
	}
	public, err := s.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("ask %s%s for the public key: %w", cliplugin.PluginBinaryPrefix, name, err)
	}
	if ec, ok := public.(*ecdsa.PublicKey); ok { // each curve has its hash
		switch ec.Curve.Params().BitSize {
		case 384:
			return load(crypto.SHA384)
		case 521:
			return load(crypto.SHA512)
		}
	}
	return s, nil
}

// isPluginName keeps references from naming programs elsewhere.
func isPluginName(name string) bool {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return name != ""
}

func unsupported(ref, kind string) error {
	return hint.Wrap(fmt.Errorf("key %q: references of the kind %s are not supported here", ref, kind),
		"use a file, k8s://NAMESPACE/SECRET or hashivault://NAME; of another key give the public half (cosign public-key --key %s) to verify or to a TrustPolicy", ref)
}
