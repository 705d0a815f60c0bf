package attest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"
)

// Predicate types: what a claim is about.
const (
	// SignPredicate marks the signature of an image.
	SignPredicate = "https://sigstore.dev/cosign/sign/v1"
	// ProvenancePredicate is SLSA provenance, version 1.
	ProvenancePredicate = "https://slsa.dev/provenance/v1"
	// VulnerabilityPredicate is the result of a scan, in cosign's form.
	VulnerabilityPredicate = "https://cosign.sigstore.dev/attestation/vuln/v1"
	// SPDXPredicate and CycloneDXPredicate are SBOMs.
	SPDXPredicate      = "https://spdx.dev/Document"
	CycloneDXPredicate = "https://cyclonedx.org/bom"
)

const (
	bundleMediaType  = "application/vnd.dev.sigstore.bundle.v0.3+json"
	bundlePrefix     = "application/vnd.dev.sigstore.bundle"
	payloadType      = "application/vnd.in-toto+json"
	simpleSigning    = "application/vnd.dev.cosign.simplesigning.v1+json"
	dsseMediaType    = "application/vnd.dsse.envelope.v1+json"
	statementTypeV01 = "https://in-toto.io/Statement/v0.1" // what `cosign attest` writes
)

// statement is an in-toto statement. The predicate stays the bytes that were signed:
// through the library's protobuf types numbers would become floats, and SBOMs are big.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"` // algorithm to hexadecimal
}

func newStatement(image name.Digest, predicateType string, predicate any) ([]byte, error) {
	raw, err := json.Marshal(predicate)
	if err != nil {
		return nil, fmt.Errorf("encode predicate %s: %w", predicateType, err)
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, fmt.Errorf("predicate %s is not a JSON object", predicateType)
	}
	algorithm, hex, _ := strings.Cut(image.DigestStr(), ":")
	s := statement{
		Type: intoto.StatementTypeUri, PredicateType: predicateType, Predicate: raw,
		Subject: []subject{{Digest: map[string]string{algorithm: hex}}},
	}
	if predicateType != SignPredicate { // as cosign does
		s.Subject[0].Name = image.Context().Name()
	}
	return json.Marshal(s)
}

// parseStatement reads what was signed and checks that it is about the image.
func parseStatement(text []byte, image name.Digest) (*statement, error) {
	s := &statement{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("read statement: %w", err)
	}
	if s.Type != intoto.StatementTypeUri && s.Type != statementTypeV01 {
		return nil, fmt.Errorf("a statement of type %q is unknown", s.Type)
	}
	algorithm, hex, _ := strings.Cut(image.DigestStr(), ":")
	for _, about := range s.Subject {
		if hex != "" && about.Digest[algorithm] == hex {
			return s, nil
		}
	}
	return nil, errors.New("it is about another image")
}

// signBundle makes the Sigstore bundle of a statement.
func signBundle(ctx context.Context, statement []byte, key *Signer) ([]byte, error) {
	sig, err := key.sign(ctx, dsse.PAE(payloadType, statement))
	if err != nil {
		return nil, err
	}
	b := &protobundle.Bundle{
		MediaType: bundleMediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
			PublicKey: &protocommon.PublicKeyIdentifier{Hint: key.Public.bundleHint()},
		}},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}
	return protojson.Marshal(b)
}

// parseBundle reads a claim out of a Sigstore bundle. It is not verified yet.
func parseBundle(text []byte, image name.Digest) (*Claim, error) {
	b := &protobundle.Bundle{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	e := b.GetDsseEnvelope()
	if e == nil {
		return nil, errors.New("the bundle holds no statement")
	}
	sigs := make([][]byte, 0, len(e.Signatures))
	for _, s := range e.Signatures {
		sigs = append(sigs, s.Sig)
	}
	return newClaim(e.PayloadType, e.Payload, sigs, image)
}

// signEnvelope makes the DSSE envelope of a statement, for the older layout.
func signEnvelope(ctx context.Context, statement []byte, key *Signer) ([]byte, error) {
	sig, err := key.sign(ctx, dsse.PAE(payloadType, statement))
	if err != nil {
		return nil, err
	}
	return json.Marshal(dsse.Envelope{
		PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(statement),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	})
}

// parseEnvelope reads a claim out of a DSSE envelope. It is not verified yet.
func parseEnvelope(text []byte, image name.Digest) (*Claim, error) {
	var e dsse.Envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	signed, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	var sigs [][]byte
	for _, s := range e.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return nil, fmt.Errorf("read envelope: %w", err)
		}
		sigs = append(sigs, sig)
	}
	return newClaim(e.PayloadType, signed, sigs, image)
}

func newClaim(kind string, signed []byte, sigs [][]byte, image name.Digest) (*Claim, error) {
	if kind != payloadType {
		return nil, fmt.Errorf("a payload of type %q is unknown", kind)
	}
	s, err := parseStatement(signed, image)
	if err != nil {
		return nil, err
	}
	return &Claim{PredicateType: s.PredicateType, Predicate: s.Predicate, signed: dsse.PAE(kind, signed), signatures: sigs}, nil
}

// parseSimple reads a signature of the older layout: the payload that was signed, with the
// signature beside it.
func parseSimple(text []byte, signatureBase64 string, image name.Digest) (*Claim, error) {
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return nil, fmt.Errorf("a signature of type %q is unknown", p.Critical.Type)
	}
	if p.Critical.Image.DockerManifestDigest != image.DigestStr() {
		return nil, errors.New("it is about another image")
	}
	sig, err := base64.StdEncoding.DecodeString(signatureBase64)
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	return &Claim{PredicateType: SignPredicate, Predicate: json.RawMessage("{}"), signed: text, signatures: [][]byte{sig}}, nil
}
