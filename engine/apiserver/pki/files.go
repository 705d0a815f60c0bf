package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

const keyBlock, certificateBlock = "EC PRIVATE KEY", "CERTIFICATE"

func loadOrCreateKey(path string) (*ecdsa.PrivateKey, error) {
	key, _, err := readAuthority(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	return key, writeAuthority(path, key, nil)
}

// writeAuthority stores a key and the certificates that go with it, if any.
func writeAuthority(path string, key *ecdsa.PrivateKey, certs []*x509.Certificate) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
	if err := atomicfile.Write(path, append(block, encodeCertificates(certs)...), 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

func readAuthority(path string) (*ecdsa.PrivateKey, []*x509.Certificate, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var key *ecdsa.PrivateKey
	var certs []*x509.Certificate
	var block *pem.Block
	for block, rest = pem.Decode(rest); block != nil && err == nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case keyBlock:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case certificateBlock:
			var cert *x509.Certificate
			cert, err = x509.ParseCertificate(block.Bytes)
			certs = append(certs, cert)
		}
	}
	if err == nil && key == nil {
		err = errors.New("no key in it")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w; restore the file from a backup", path, err)
	}
	return key, certs, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	return out
}
