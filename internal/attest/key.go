package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/gantryhq/gantry/internal/hint"
)

// The PEM types of private keys that cosign writes.
const (
	sigstoreKey = "ENCRYPTED SIGSTORE PRIVATE KEY"
	cosignKey   = "ENCRYPTED COSIGN PRIVATE KEY"
)

// ErrPassword is returned when a private key cannot be decrypted.
var ErrPassword = errors.New("the password does not fit the private key")

// PublicKey verifies signatures. It is safe for concurrent use.
type PublicKey struct {
	// ID is "sha256:" and the hash of the key's PKIX form, in hexadecimal.
	ID string
	// PEM is the key as cosign writes it.
	PEM []byte

	key       crypto.PublicKey
	verifiers []signature.Verifier // one of them must accept
}

// ParsePublicKey reads a PEM public key: ECDSA, RSA or Ed25519.
func ParsePublicKey(text []byte) (*PublicKey, error) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("read public key: %w", err), "a public key is a PEM block PUBLIC KEY, as in cosign.pub")
	}
	return newPublicKey(key)
}

func newPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	sum := sha256.Sum256(der)
	k := &PublicKey{
		ID: "sha256:" + hex.EncodeToString(sum[:]), key: key,
		PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	}
	v, err := signature.LoadDefaultVerifier(key, options.WithED25519ph())
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	k.verifiers = append(k.verifiers, v)
	if pure, ok := key.(ed25519.PublicKey); ok { // cosign before 3 signed the message, not its hash
		v, err := signature.LoadED25519Verifier(pure)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		k.verifiers = append(k.verifiers, v)
	}
	return k, nil
}

// Verify says whether sig is this key's signature of message.
func (k *PublicKey) Verify(message, sig []byte) error {
	var err error
	for _, v := range k.verifiers {
		if err = v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)); err == nil {
			return nil
		}
	}
	return err
}

// bundleHint is the name that cosign gives the key in a bundle.
func (k *PublicKey) bundleHint() string {
	sum, _ := hex.DecodeString(k.ID[len("sha256:"):]) // we encoded it
	return base64.StdEncoding.EncodeToString(sum)
}

// Signer signs with a private key that may be elsewhere. It is safe for concurrent use.
type Signer struct {
	Public *PublicKey
	signer signature.Signer
}

// newSigner takes a signer whose hash is the default of its key's type.
func newSigner(s signature.Signer) (*Signer, error) {
	key, err := s.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	public, err := newPublicKey(key)
	if err != nil {
		return nil, err
	}
	return &Signer{Public: public, signer: s}, nil
}

// ParsePrivateKey reads a private key that is encrypted as cosign does it. Decrypting
// takes about 100 ms of CPU and up to 64 MiB of memory: keep the Signer.
func ParsePrivateKey(text, password []byte) (*Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("read private key: it is not PEM")
	}
	if block.Type != sigstoreKey && block.Type != cosignKey {
		return nil, hint.Wrap(fmt.Errorf("read private key: a PEM block %q is not an encrypted key of cosign", block.Type),
			"make one with `gantry keys generate`, or encrypt yours with `cosign import-key-pair`")
	}
	der, err := encrypted.Decrypt(block.Bytes, password)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", ErrPassword)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("read private key: it is not in PKCS #8 form")
	}
	s, err := signature.LoadDefaultSigner(key, options.WithED25519ph())
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return newSigner(s)
}

// sign signs a message.
func (s *Signer) sign(ctx context.Context, message []byte) ([]byte, error) {
	sig, err := s.signer.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// GenerateKey makes a key pair in cosign's form (ECDSA P-256), the private key encrypted
// with the password.
func GenerateKey(password []byte) (private, public []byte, err error) {
	return generateKey(password, encrypted.Standard)
}

func generateKey(password []byte, strength encrypted.KDFParameterStrength) (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	sealed, err := encrypted.EncryptWithCustomKDFParameters(der, password, strength)
	if err != nil {
		return nil, nil, fmt.Errorf("encrypt key: %w", err)
	}
	pub, err := newPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: sigstoreKey, Bytes: sealed}), pub.PEM, nil
}
