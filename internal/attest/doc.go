// Package attest signs container images and reads what others signed about them,
// in the formats of cosign (https://github.com/sigstore/cosign/tree/main/specs), so that
// `cosign verify` accepts what this package made and this package accepts what cosign made.
//
// A claim is a signed statement about an image: that somebody vouches for it (its
// signature, predicate type [SignPredicate]) or something more about it (an
// attestation: provenance, scan result, SBOM). It is an in-toto statement in a DSSE
// envelope, kept in a Sigstore bundle that refers to the image as an OCI referrer
// ([Referrer], what cosign 3 writes). The older layout ([Tag]: tags sha256-….sig and
// sha256-….att) is read everywhere and written on request.
//
// Guarantees: a claim counts only for the exact digest it names, and only when one of
// the keys that the caller gave verifies it: nothing a registry answers is trusted.
// No transparency log is asked, so everything works without a connection to the
// Internet. Private keys and passwords never appear in errors.
//
// Callers may not assume that a claim is the only one of its type, that the newest
// comes first, or that a claim which was never verified says the truth.
//
// Functions that talk to a registry take the remote.Options of go-containerregistry;
// without any the docker configuration of the user says how to log in.
//
// Imported by the services that sign, attach or demand claims, and by the command line.
package attest
